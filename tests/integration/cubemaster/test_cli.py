"""cubemastercli as an operator runs it: a process of its own against a running CubeMaster."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from appliance.contracts.master import NewSnapshot
from appliance.contracts.node import BuildState
from appliance.contracts.volumes import VolumeMount
from appliance.domain.ids import API_KEY
from tests.integration.cubemaster.conftest import Appliance, eventually


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


async def cli(endpoint: Path, *arguments: str, stdin: str = "") -> Ran:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "appliance.cli", "--endpoint", f"unix://{endpoint}", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def test_a_template_from_the_command_of_the_manual_to_ready(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    made = await cli(
        socket,
        *("--json", "tpl", "create-from-image", "--image", "registry.example/sandbox-code:latest"),
        *("--writable-layer-size", "1G", "--expose-port", "49999", "--expose-port", "49983", "--probe", "49999"),
        *("--name", "code", "--registry-user", "me", "--registry-password-stdin"),
        stdin="secret\n",
    )
    assert made.code == 0, made.err
    job = json.loads(made.out)["build_id"]

    async def on_node() -> bool:
        return job in appliance.node.builds

    await eventually(on_node)
    asked = appliance.node.builds[job]
    assert (asked.writable_layer_mib, asked.exposed_ports, asked.probe_port) == (1024, (49999, 49983), 49999)
    assert asked.registry is not None
    assert (asked.registry.username, asked.registry.password) == ("me", "secret")

    watching = asyncio.create_task(cli(socket, "tpl", "watch", "--job-id", job, "--timeout", "50"))
    appliance.node.log(job, "unpacking [1/3] layers")
    appliance.node.finish_build(job, BuildState.READY)
    watched = await watching
    assert watched.code == 0, watched.err
    assert "unpacking [1/3] layers" in watched.err
    assert "READY" in watched.out

    listed = await cli(socket, "tpl", "list")
    assert "code" in listed.out
    assert "ready" in listed.out


async def test_watch_fails_with_the_reason_and_ends_when_its_time_is_up(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    made = await cli(socket, "--json", "tpl", "create-from-image", "--image", "oci:/x")
    job = json.loads(made.out)["build_id"]

    impatient = await cli(socket, "tpl", "watch", "--job-id", job, "--timeout", "0.2")
    assert (impatient.code, "did not finish" in impatient.err) == (3, True)

    async def on_node() -> bool:
        return job in appliance.node.builds

    await eventually(on_node)
    appliance.node.finish_build(job, BuildState.ERROR, reason="image rejected (device_node): dev/sda")
    failed = await cli(socket, "tpl", "watch", "--job-id", job, "--timeout", "50")
    assert failed.code == 1
    assert "device_node" in failed.err


async def test_sandboxes_are_listed_shown_and_killed(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(
        team_id,
        metadata={"who": "agent"},
        allow_public_traffic=False,
        rules={"a.com": ({"headers": {"X": "canary-4c1e"}},)},
    )

    listed = await cli(socket, "--json", "sandbox", "list")
    assert [one["sandbox_id"] for one in json.loads(listed.out)] == [made.sandbox_id]
    assert str(made.access_token) not in listed.out
    whole = json.loads((await cli(socket, "--json", "sandbox", "info", made.sandbox_id)).out)
    assert not {made.access_token, made.traffic_token} & set(map(str, whole.values()))
    assert "canary-4c1e" not in str(whole)
    killed = await cli(socket, "sandbox", "kill", made.sandbox_id)
    assert killed.code == 0, killed.err
    assert appliance.node.sandboxes == {}
    shown = await cli(socket, "sandbox", "info", made.sandbox_id)
    assert "killed" in shown.out
    assert "who=agent" in shown.out
    again = await cli(socket, "sandbox", "kill", made.sandbox_id)
    assert again.code == 4


async def test_sandboxes_are_rolled_back_paused_and_resumed_and_their_snapshots_listed(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)
    taken = await appliance.master.take_snapshot(made.sandbox_id, NewSnapshot(name="warm"))

    listed = await cli(socket, "--json", "snapshot", "list", "--sandbox", made.sandbox_id)
    assert [one["snapshot_id"] for one in json.loads(listed.out)] == [taken.snapshot_id]
    assert "default/warm:default" in (await cli(socket, "snapshot", "list")).out
    back = await cli(socket, "--json", "sandbox", "rollback", made.sandbox_id, "warm")
    assert (back.code, json.loads(back.out)["sandbox_id"]) == (0, made.sandbox_id)
    assert str(made.access_token) not in back.out
    assert (await cli(socket, "sandbox", "rollback", made.sandbox_id, "unknown")).code == 4
    paused = await cli(socket, "sandbox", "pause", made.sandbox_id)
    assert paused.code == 0, paused.err
    assert "disk and memory" in (await cli(socket, "sandbox", "info", made.sandbox_id)).out
    again = await cli(socket, "sandbox", "pause", made.sandbox_id)
    assert (again.code, "cannot be paused" in again.err) == (1, True)
    resumed = await cli(socket, "--json", "sandbox", "resume", made.sandbox_id, "--no-memory")
    assert json.loads(resumed.out)["state"] == "running"
    assert str(made.access_token) not in resumed.out
    assert not appliance.node.resumes[made.sandbox_id][0].memory
    assert (await cli(socket, "sandbox", "resume", "iunknown")).code == 4


async def test_a_new_key_is_alone_on_standard_output(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    made = await cli(socket, "key", "create", "--name", "laptop", "--team", "blue")
    assert API_KEY.fullmatch(made.out.strip())
    listed = json.loads((await cli(socket, "--json", "key", "list")).out)
    assert [one["team"] for one in listed] == ["blue"]
    assert (await cli(socket, "key", "revoke", listed[0]["key_id"])).code == 0
    assert (await cli(socket, "key", "revoke", listed[0]["key_id"])).code == 4


async def test_nodes_show_what_is_reserved(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await appliance.sandbox(team_id)
    listed = await cli(appliance.settings.socket, "node", "list")
    assert "cube-1" in listed.out
    assert "1/16" in listed.out


async def test_without_cubemaster_it_says_which_service_to_look_at(tmp_path: Path) -> None:
    ran = await cli(tmp_path / "nobody", "node", "list")
    assert ran.code == 5
    assert "systemctl status cube-master" in ran.err


async def test_wrong_usage_is_told_apart(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    assert (await cli(socket, "tpl", "create-from-image", "--image", "x", "--memory", "1X")).code == 2
    assert (await cli(socket, "tpl", "create-from-image", "--image", "x", "--registry-user", "me")).code == 2
    assert (await cli(socket, "tpl", "info", "not a name")).code == 2
    assert (await cli(socket, "sandbox", "kill")).code == 2


async def test_a_team_is_made_limited_and_shown(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    made = await cli(socket, "team", "create", "blue")
    assert made.code == 0, made.err
    assert (await cli(socket, "team", "create", "blue")).code == 1

    limited = await cli(
        socket,
        "--json",
        "team",
        "set-quota",
        "blue",
        "--sandboxes",
        "3",
        "--memory",
        "2G",
        "--builds",
        "none",
        "--volumes",
        "5",
    )
    assert limited.code == 0, limited.err
    shown = json.loads(limited.out)
    assert shown["team_id"] == made.out.strip()
    assert (shown["limits"]["sandboxes"], shown["limits"]["memory_mib"], shown["limits"]["builds"]) == (3, 2048, None)
    assert (shown["usage"]["volumes"], shown["limits"]["volumes"]) == (0, 5)
    again = await cli(socket, "team", "set-quota", "blue", "--sandboxes", "default")
    assert "0/100" in again.out
    assert "0M/2G" in again.out
    assert "blue" in (await cli(socket, "team", "list")).out
    assert (await cli(socket, "team", "info", "red")).code == 4
    assert (await cli(socket, "team", "set-quota", "blue")).code == 2
    assert (await cli(socket, "team", "set-quota", "blue", "--vcpus", "-3")).code == 2


async def test_volumes_are_made_listed_shown_and_deleted(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    team_id, _ = await appliance.team(), await appliance.template()
    volume_id = (await cli(socket, "volume", "create", "data")).out.strip()
    assert (await cli(socket, "volume", "create", "data")).code == 1
    assert (await cli(socket, "volume", "create", "a b")).code == 2
    assert (await cli(socket, "volume", "create", "data", "--team", "nobody")).code == 4
    (listed,) = json.loads((await cli(socket, "--json", "volume", "list", "--team", "default")).out)
    assert (listed["volume_id"], listed["team_id"], listed["node_id"]) == (volume_id, team_id, "cube-1")
    shown = json.loads((await cli(socket, "--json", "volume", "info", volume_id)).out)
    assert shown.keys() == listed.keys()
    token = (await appliance.master.volumes.get(volume_id)).token
    made = await cli(socket, "--json", "volume", "create", "other")
    assert "token" not in json.loads(made.out)

    sandbox = await appliance.sandbox(team_id, volumes=(VolumeMount(name="data", path="/mnt/data"),))
    info = await cli(socket, "volume", "info", volume_id)
    assert sandbox.sandbox_id in info.out
    assert token not in info.out
    assert sandbox.sandbox_id in (await cli(socket, "volume", "list")).out
    assert "data at /mnt/data" in (await cli(socket, "sandbox", "info", sandbox.sandbox_id)).out
    refused = await cli(socket, "volume", "delete", volume_id)
    assert (refused.code, sandbox.sandbox_id in refused.err) == (1, True)
    await appliance.master.kill_sandbox(sandbox.sandbox_id)
    assert (await cli(socket, "volume", "delete", volume_id)).code == 0
    assert (await cli(socket, "volume", "delete", volume_id)).code == 4
    assert (await cli(socket, "volume", "info", "vol_nothing")).code == 4


async def test_a_key_is_made_with_scopes_and_an_end(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    made = await cli(
        socket, "--json", "key", "create", "--scope", "sandboxes", "--scope", "templates", "--expires", "30d"
    )
    assert made.code == 0, made.err
    (listed,) = json.loads((await cli(socket, "--json", "key", "list")).out)
    assert listed["scopes"] == ["sandboxes", "templates"]
    assert listed["expires_at"] > listed["created_at"]
    assert (await cli(socket, "key", "create", "--scope", "everything")).code == 2
    assert (await cli(socket, "key", "create", "--expires", "yesterday")).code == 2


async def test_a_node_is_drained_and_used_again(appliance: Appliance) -> None:
    socket = appliance.settings.socket
    assert (await cli(socket, "node", "drain", "cube-1")).code == 0
    assert "draining" in (await cli(socket, "node", "list")).out
    assert (await cli(socket, "node", "ready", "cube-1")).code == 0
    assert "draining" not in (await cli(socket, "node", "list")).out
    assert (await cli(socket, "node", "drain", "nobody")).code == 4
