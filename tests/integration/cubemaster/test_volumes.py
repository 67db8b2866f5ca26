"""Volumes through CubeMaster and CubeAPI: made, mounted by one sandbox at a time, kept, and gone without a trace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from appliance.contracts.master import NewFork, NewKey, NewPause, NewResume, NewSnapshot, SandboxView
from appliance.contracts.node import BuildState, EndedSandbox, EndReason
from appliance.contracts.teams import TeamLimits
from appliance.contracts.volumes import NewVolume, VolumeAndToken, VolumeMount
from appliance.cubemaster.settings import CubeMasterSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import DATABASE, Appliance, eventually
from tests.support.fake_node import FakeNode


@pytest.fixture
def settings(settings: CubeMasterSettings) -> CubeMasterSettings:
    quick = settings.volumes.model_copy(
        update={"size_mib": 1000, "unknown_grace_s": 0.3, "sweep_interval_s": 0.1, "idle_s": 20}
    )
    return settings.model_copy(update={"volumes": quick})


async def made(appliance: Appliance, team_id: str, name: str = "data") -> VolumeAndToken:
    return await appliance.master.volumes.create(NewVolume(team_id=team_id, name=name))


def mounts(*pairs: tuple[str, str]) -> tuple[VolumeMount, ...]:
    return tuple(VolumeMount(name=name, path=path) for name, path in pairs)


def rows(appliance: Appliance, table: str) -> int:
    ((count,),) = appliance.db.execute(f"SELECT COUNT(*) FROM {table}", database=DATABASE)
    return int(count)


async def test_a_volume_is_made_found_and_deleted(appliance: Appliance) -> None:
    team_id = await appliance.team()
    volume = await made(appliance, team_id)
    assert appliance.node.volumes.made[volume.volume_id].size_mib == 1000
    assert (volume.name, volume.node_id, volume.size_mib, volume.sandbox_id) == ("data", "cube-1", 1000, None)
    assert await appliance.master.volumes.get(volume.volume_id, team_id=team_id) == volume
    (listed,) = await appliance.master.volumes.all(team_id=team_id)
    assert listed.volume_id == volume.volume_id
    other = await made(appliance, team_id, "other")
    assert other.token != volume.token
    # The operator sees what all teams have.
    assert [one.name for one in await appliance.master.volumes.all()] == ["data", "other"]

    await appliance.master.volumes.delete(volume.volume_id, team_id=team_id)
    assert set(appliance.node.volumes.made) == {other.volume_id}
    for call in (appliance.master.volumes.get, appliance.master.volumes.delete):
        with pytest.raises(errors.VolumeNotFound):
            await call(volume.volume_id, team_id=team_id)
    again = await made(appliance, team_id)
    assert again.volume_id != volume.volume_id
    assert rows(appliance, "volumes") == 2


async def test_a_name_belongs_to_one_volume_of_its_team(appliance: Appliance) -> None:
    team_id, other_id = await appliance.team(), await appliance.team("other")
    outcomes = await asyncio.gather(*(made(appliance, team_id) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, VolumeAndToken) for one in outcomes) == 1
    refused = [one for one in outcomes if isinstance(one, errors.Conflict)]
    assert [one.message for one in refused] == ["Volume with name 'data' already exists"] * 4
    assert len(appliance.node.volumes.made) == 1
    await made(appliance, other_id)
    with pytest.raises(errors.InvalidRequest, match="Invalid volume name"):
        await made(appliance, team_id, "a b")
    with pytest.raises(errors.TeamNotFound):
        await made(appliance, "nobody")


async def test_a_sandbox_has_its_volumes_until_it_ends(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    data, logs = await made(appliance, team_id), await made(appliance, team_id, "logs")
    wanted = mounts(("logs", "/var/log/app"), ("data", "/data"))
    sandbox = await appliance.sandbox(team_id, volumes=wanted)

    assert sandbox.volumes == wanted
    assert (await appliance.master.get_sandbox(sandbox.sandbox_id)).volumes == wanted
    (listed,) = (await appliance.master.list_sandboxes(team_id=team_id)).sandboxes
    assert listed.volumes == wanted
    asked = appliance.node.requests[sandbox.sandbox_id].volumes
    assert [(one.volume_id, one.path) for one in asked] == [
        (logs.volume_id, "/var/log/app"),
        (data.volume_id, "/data"),
    ]
    assert (await appliance.master.volumes.get(data.volume_id)).sandbox_id == sandbox.sandbox_id

    # Also while it is paused.
    await appliance.master.pause_sandbox(sandbox.sandbox_id, NewPause())
    for refused in (
        appliance.sandbox(team_id, volumes=mounts(("data", "/x"))),
        appliance.master.volumes.delete(data.volume_id, team_id=team_id),
    ):
        with pytest.raises(errors.VolumeInUse, match=f'in use by sandbox "{sandbox.sandbox_id}"'):
            await refused
    await appliance.master.resume_sandbox(sandbox.sandbox_id, NewResume(timeout_s=60))
    with pytest.raises(errors.VolumeInUse):
        await appliance.sandbox(team_id, volumes=mounts(("data", "/x")))

    await appliance.master.kill_sandbox(sandbox.sandbox_id)
    assert rows(appliance, "volume_attachments") == 0
    second = await appliance.sandbox(team_id, volumes=mounts(("data", "/x")))
    assert second.volumes == mounts(("data", "/x"))
    await appliance.master.volumes.delete(logs.volume_id, team_id=team_id)


async def test_whatever_ends_a_sandbox_frees_its_volumes(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    volume = await made(appliance, team_id)
    wanted = mounts(("data", "/data"))

    async def holder() -> str | None:
        return (await appliance.master.volumes.get(volume.volume_id)).sandbox_id

    # Its node says so.
    sandbox = await appliance.sandbox(team_id, volumes=wanted)
    gone = appliance.node.sandboxes.pop(sandbox.sandbox_id)
    ended = EndedSandbox(sandbox_id=sandbox.sandbox_id, reason=EndReason.TIMEOUT, ended_at=gone.started_at)
    await appliance.master.report_ended("cube-1", [ended])
    assert await holder() is None
    # Its create fails.
    appliance.node.fail_create = errors.VmmFailure("no")
    with pytest.raises(errors.VmmFailure):
        await appliance.sandbox(team_id, volumes=wanted)
    assert await holder() is None
    appliance.node.fail_create = None
    # Its node is restarted.
    sandbox = await appliance.sandbox(team_id, volumes=wanted)
    appliance.node.sandboxes.clear()
    appliance.node.boot_id = "22222222-2222-2222-2222-222222222222"
    await appliance.beat()
    assert await holder() is None
    # It is killed while it is created.
    appliance.node.stall_create = asyncio.Event()
    creating = asyncio.create_task(appliance.sandbox(team_id, volumes=wanted))

    async def on_node() -> bool:
        return bool(appliance.node.sandboxes)

    await eventually(on_node)
    (sandbox_id,) = appliance.node.sandboxes
    await appliance.master.kill_sandbox(sandbox_id)
    appliance.node.stall_create.set()
    with pytest.raises(errors.SandboxTransitioning):
        await creating
    assert await holder() is None
    assert rows(appliance, "volume_attachments") == 0


async def test_of_many_creates_at_once_one_gets_the_volume(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await made(appliance, team_id)
    await made(appliance, team_id, "logs")
    # In both orders: none may wait for another that waits for it.
    both = mounts(("data", "/data"), ("logs", "/logs"))
    wishes = [both, both[::-1]] * 5

    outcomes = await asyncio.gather(
        *(appliance.sandbox(team_id, volumes=one) for one in wishes), return_exceptions=True
    )

    assert sum(isinstance(one, SandboxView) for one in outcomes) == 1, outcomes
    assert sum(isinstance(one, errors.VolumeInUse) for one in outcomes) == 9, outcomes
    assert await appliance.reserved() == (1, 512)


async def test_a_create_and_a_delete_at_once_agree(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    for _ in range(5):
        volume = await made(appliance, team_id)
        create, delete = await asyncio.gather(
            appliance.sandbox(team_id, volumes=mounts(("data", "/data"))),
            appliance.master.volumes.delete(volume.volume_id, team_id=team_id),
            return_exceptions=True,
        )
        if isinstance(create, SandboxView):
            assert isinstance(delete, errors.VolumeInUse)
            await appliance.master.kill_sandbox(create.sandbox_id)
            await appliance.master.volumes.delete(volume.volume_id)
        else:
            assert isinstance(create, errors.InvalidRequest)
            assert delete is None


async def test_the_same_idempotency_key_is_the_same_sandbox_with_its_volume(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await made(appliance, team_id)
    wish = {"volumes": mounts(("data", "/data")), "idempotency_key": "once"}
    first, second = await asyncio.gather(*(appliance.sandbox(team_id, **wish) for _ in range(2)))
    assert first.sandbox_id == second.sandbox_id


async def test_no_copy_is_made_of_a_sandbox_with_volumes(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await made(appliance, team_id)
    sandbox = await appliance.sandbox(team_id, volumes=mounts(("data", "/data")))
    for refused, what in (
        (appliance.master.take_snapshot(sandbox.sandbox_id, NewSnapshot()), "snapshotted"),
        (appliance.master.fork_sandbox(sandbox.sandbox_id, NewFork(timeout_s=60, count=1)), "forked"),
    ):
        with pytest.raises(errors.Conflict, match=f"cannot be {what}: it has the volumes 'data'"):
            await refused
    assert appliance.node.snapshots == {}
    (row,) = appliance.db.execute("SELECT state FROM sandboxes", database=DATABASE)
    assert row == ("running",)


async def test_limits_hold_for_volumes_and_their_disk(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await appliance.master.teams.set_limits(team_id, TeamLimits(volumes=3))
    outcomes = await asyncio.gather(*(made(appliance, team_id, f"v{n}") for n in range(6)), return_exceptions=True)
    assert sum(isinstance(one, VolumeAndToken) for one in outcomes) == 3
    assert sum(isinstance(one, errors.QuotaExceeded) and "3 volumes" in one.message for one in outcomes) == 3
    shown = await appliance.master.teams.get(team_id)
    assert (shown.usage.volumes, shown.usage.disk_mib, shown.limits.volumes) == (3, 3000, 3)
    assert (await appliance.master.teams.create("fresh")).limits.volumes == 20

    # A sandbox of 1500 MiB fits beside them, and after that no other volume.
    await appliance.master.teams.set_limits(team_id, TeamLimits(disk_mib=5000))
    await appliance.sandbox(team_id)
    with pytest.raises(errors.QuotaExceeded, match="5000 MiB of disk"):
        await made(appliance, team_id, "more")
    with pytest.raises(errors.QuotaExceeded, match="5000 MiB of disk"):
        await appliance.sandbox(team_id)


async def test_volumes_that_are_not_there_are_named(appliance: Appliance) -> None:
    team_id, other_id, _ = await appliance.team(), await appliance.team("other"), await appliance.template()
    await made(appliance, other_id)
    with pytest.raises(errors.InvalidRequest) as refused:
        await appliance.sandbox(team_id, volumes=mounts(("data", "/data"), ("x" * 300, "/x")))
    assert refused.value.message.startswith("invalid mounts:\n\t- volume mount #0: volume 'data' not found\n\t- ")
    with pytest.raises(errors.InvalidRequest, match="at most 2 volumes"):
        await appliance.sandbox(team_id, volumes=mounts(("a", "/a"), ("b", "/b"), ("c", "/c")))
    assert rows(appliance, "sandboxes") == 0


class TwoNodes:
    """A second node beside the appliance's, with the same template."""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance
        first = appliance.node
        self.second = FakeNode(first.socket.with_name("node2"), node_id="cube-2", disk_free_mib=200_000)

    async def beat(self) -> None:
        await self.appliance.beat()
        await self.appliance.master.heartbeat(self.second.status())


async def test_a_sandbox_goes_where_its_volumes_are(appliance: Appliance) -> None:
    two = TwoNodes(appliance)
    async with two.second.serving():
        team_id = await appliance.team()
        near = await made(appliance, team_id, "near")
        await two.beat()
        far = await made(appliance, team_id, "far")
        assert (near.node_id, far.node_id) == ("cube-1", "cube-2")
        await _template_on(two)
        with pytest.raises(errors.InvalidRequest, match="'near' on node 'cube-1', 'far' on node 'cube-2'"):
            await appliance.sandbox(team_id, volumes=mounts(("near", "/n"), ("far", "/f")))
        for name, node in (("near", "cube-1"), ("far", "cube-2")):
            assert (await appliance.sandbox(team_id, volumes=mounts((name, "/v")))).node_id == node

        await made(appliance, team_id, "more")
        await appliance.master.set_draining("cube-2", draining=True)
        with pytest.raises(errors.NoCapacity, match="node 'cube-2', which has the volumes"):
            await appliance.sandbox(team_id, volumes=mounts(("more", "/v")))
        assert (await made(appliance, team_id, "elsewhere")).node_id == "cube-1"


async def _template_on(two: TwoNodes) -> None:
    """Have both nodes build the template."""
    for node in (two.appliance.node, two.second):
        node.builder = _finisher(node)
    await two.appliance.template()


def _finisher(node: FakeNode) -> Callable[[Any], Any]:
    async def finish(request: Any) -> None:
        node.finish_build(request.build_id, BuildState.READY)

    return finish


async def test_without_a_node_that_has_room_there_is_no_volume(appliance: Appliance) -> None:
    team_id = await appliance.team()
    appliance.node.disk_free_mib = 999
    await appliance.beat()
    with pytest.raises(errors.NoCapacity, match="none of 1 ready nodes has 1000 MiB"):
        await made(appliance, team_id)
    appliance.node.ready = False
    await appliance.beat()
    with pytest.raises(errors.NoCapacity):
        await made(appliance, team_id)
    assert rows(appliance, "volumes") == 0


async def test_a_volume_that_cannot_be_made_leaves_nothing(appliance: Appliance) -> None:
    team_id = await appliance.team()
    appliance.node.volumes.fail_make = errors.DiskFull("no room for the image")
    with pytest.raises(errors.DiskFull):
        await made(appliance, team_id)
    assert rows(appliance, "volumes") == 0
    appliance.node.volumes.fail_make = None
    await made(appliance, team_id)


async def test_a_delete_whose_node_is_away_is_carried_out_when_it_is_back(appliance: Appliance) -> None:
    team_id = await appliance.team()
    volume = await made(appliance, team_id)
    appliance.node.volumes.fail_delete = errors.Unavailable("busy")
    await appliance.master.volumes.delete(volume.volume_id, team_id=team_id)
    # Gone for its team, whose name is free and whose quota does not count it.
    assert await appliance.master.volumes.all(team_id=team_id) == []
    await made(appliance, team_id)
    assert (await appliance.master.teams.get(team_id)).usage.volumes == 1
    assert volume.volume_id in appliance.node.volumes.made
    # Safe to repeat, before and after.
    await appliance.master.volumes.delete(volume.volume_id, team_id=team_id)
    appliance.node.volumes.fail_delete = None

    async def gone() -> bool:
        return volume.volume_id not in appliance.node.volumes.made and rows(appliance, "volumes") == 1

    await eventually(gone, within_s=20)


async def test_a_create_that_was_interrupted_is_undone(appliance: Appliance) -> None:
    team_id = await appliance.team()
    volume = await made(appliance, team_id)
    kept = await made(appliance, team_id, "kept")
    # As if CubeMaster had died after the node had made it, a while ago.
    appliance.db.execute(
        "UPDATE volumes SET state = 'creating', created_at = created_at - INTERVAL 1 HOUR WHERE name = 'data'",
        database=DATABASE,
    )
    with pytest.raises(errors.VolumeNotFound):
        await appliance.master.volumes.get(volume.volume_id)

    async def undone() -> bool:
        return set(appliance.node.volumes.made) == {kept.volume_id} and rows(appliance, "volumes") == 1

    await eventually(undone, within_s=20)
    await made(appliance, team_id)


async def test_what_no_row_names_is_deleted_on_the_node_and_nothing_else(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    volume, lost = await made(appliance, team_id), await made(appliance, team_id, "lost")
    await appliance.sandbox(team_id, volumes=mounts(("data", "/data")))
    appliance.db.execute("DELETE FROM volumes WHERE name = 'lost'", database=DATABASE)

    async def gone() -> bool:
        return lost.volume_id not in appliance.node.volumes.made

    await eventually(gone, within_s=20)
    assert appliance.node.volumes.deleted == [lost.volume_id]
    assert volume.volume_id in appliance.node.volumes.made


# Through CubeAPI


async def test_the_public_interface_has_the_statuses_that_sdks_know(
    appliance: Appliance, api: httpx.AsyncClient, others: dict[str, str]
) -> None:
    created = await api.post("/volumes", json={"name": "data"})
    assert created.status_code == 201
    volume = created.json()
    assert volume.keys() == {"volumeID", "name", "token"}
    again = await api.post("/volumes", json={"name": "data"})
    assert (again.status_code, again.json()["message"]) == (400, "Volume with name 'data' already exists")
    assert (await api.post("/volumes", json={"name": "a b"})).status_code == 400
    assert (await api.get("/volumes")).json() == [{"volumeID": volume["volumeID"], "name": "data"}]
    path = f"/volumes/{volume['volumeID']}"
    assert (await api.get(path)).json() == volume

    # Another team's volume is not found, by no way.
    assert (await api.get("/volumes", headers=others)).json() == []
    for unknown in (path, "/volumes/vol_nothing", "/volumes/..%2Fsandboxes"):
        for method in ("GET", "DELETE"):
            answer = await api.request(method, unknown, headers=others)
            assert (answer.status_code, answer.json()["code"]) == (404, 404), unknown
    assert (await api.post("/volumes", json={"name": "data"}, headers=others)).status_code == 201

    assert (await api.delete(path)).status_code == 204
    assert (await api.delete(path)).status_code == 404


async def test_a_key_without_the_scope_gets_at_no_volume(appliance: Appliance, api: httpx.AsyncClient) -> None:
    narrow = (await appliance.master.create_key(NewKey(name="narrow", scopes=("sandboxes",)))).key
    for method, path, body in (("GET", "/volumes", None), ("POST", "/volumes", {"name": "data"})):
        answer = await api.request(method, path, json=body, headers={"X-API-Key": narrow})
        assert answer.status_code == 403
        assert "'volumes'" in answer.json()["message"]


@pytest.mark.parametrize("create", ["/sandboxes", "/v2/sandboxes"])
async def test_a_sandbox_is_made_with_mounts_and_shows_them(
    appliance: Appliance, api: httpx.AsyncClient, create: str
) -> None:
    await appliance.template()
    volume = (await api.post("/volumes", json={"name": "data"})).json()
    wanted = [{"name": "data", "path": "/data"}]
    body = {"templateID": "base", "timeout": 60, "volumeMounts": wanted}
    sandbox = (await api.post(create, json=body)).json()
    assert (await api.get(f"/sandboxes/{sandbox['sandboxID']}")).json()["volumeMounts"] == wanted
    assert (await api.get("/v2/sandboxes")).json()[0]["volumeMounts"] == wanted
    in_use = await api.post(create, json=body)
    assert (in_use.status_code, sandbox["sandboxID"] in in_use.json()["message"]) == (409, True)
    deleted = await api.delete(f"/volumes/{volume['volumeID']}")
    assert (deleted.status_code, sandbox["sandboxID"] in deleted.json()["message"]) == (409, True)

    for mount, problem in (
        ({"name": "none", "path": "/data"}, "volume mount #0: volume 'none' not found"),
        ({"name": "data", "path": "data"}, "volume mount #0: path 'data' is not absolute"),
    ):
        refused = await api.post(create, json={**body, "volumeMounts": [mount]})
        assert (refused.status_code, problem in refused.json()["message"]) == (400, True)
    plain = (await api.post(create, json={**body, "volumeMounts": []})).json()
    assert "volumeMounts" not in (await api.get(f"/sandboxes/{plain['sandboxID']}")).json()
