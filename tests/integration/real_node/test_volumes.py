"""Volumes in real guests: what one sandbox leaves another finds, whatever ends them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.clients.node import NodeClient
from appliance.common.http import raise_for
from appliance.contracts.errors import ErrorBody
from appliance.contracts.node import Pause
from appliance.contracts.node_volumes import NewNodeVolume
from appliance.domain.errors import Conflict, VolumeInUse, VolumeNotFound
from appliance.domain.ids import new_volume_id
from tests.support.real_node import RealNode, again

pytestmark = [pytest.mark.root, pytest.mark.guest]

SIZE_MIB = 10240
AT = "/mnt/data"


@pytest.fixture
async def volume_id(node: RealNode, cubelet: NodeClient) -> AsyncIterator[str]:
    volume_id = new_volume_id()
    await cubelet.volumes.make(volume_id, NewNodeVolume(size_mib=SIZE_MIB))
    yield volume_id
    for sandbox in await cubelet.list_sandboxes():
        await cubelet.delete_sandbox(sandbox.sandbox_id)
    await cubelet.volumes.delete(volume_id)
    assert not list((node.base / "data" / "volumes").iterdir())


async def sandbox_with(node: RealNode, cubelet: NodeClient, volume_id: str, path: str = AT) -> str:
    return await node.create(cubelet, volumes=[{"volume_id": volume_id, "path": path}])


async def ask(
    cubelet: NodeClient, volume_id: str, method: str, kind: str, path: str, body: bytes | None = None, **query: str
) -> tuple[int, bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body or b""), 65536):
            yield (body or b"")[at : at + 65536]

    async with cubelet.volumes.content(
        method,
        volume_id,
        kind,
        params=[("path", path), *query.items()],
        headers={},
        body=pieces() if body is not None else None,
        idle=timedelta(seconds=120),
    ) as answer:
        status, said = answer.status, await answer.whole(most=10_000_000)
    if status >= 400 and isinstance(json.loads(said)["code"], int):
        raise_for(status, ErrorBody.model_validate_json(said), service="cubelet")
    return status, said


async def shown(cubelet: NodeClient, volume_id: str, path: str) -> dict[str, Any]:
    status, body = await ask(cubelet, volume_id, "GET", "path", path)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


async def used_mib(cubelet: NodeClient, volume_id: str) -> int:
    return next(one.used_mib for one in await cubelet.volumes.all() if one.volume_id == volume_id)


def keepers(node: RealNode) -> int:
    return sum(
        json.loads(path.read_bytes())["build_id"] == "keeper"
        for path in (node.base / "data" / "sandboxes").glob("*/record.json")
    )


async def test_what_is_written_without_a_sandbox_is_there_in_one_and_the_other_way_round(
    node: RealNode, cubelet: NodeClient, volume_id: str
) -> None:
    content = os.urandom(5_000_000)
    status, body = await ask(cubelet, volume_id, "PUT", "file", "/in/big.bin", content, force="true")
    assert status == 201, body
    assert await ask(cubelet, volume_id, "GET", "file", "/in/big.bin") == (200, content)
    assert json.loads((await ask(cubelet, volume_id, "GET", "dir", "/"))[1])[0]["path"] == "/in"
    assert keepers(node) == 1

    sandbox_id = await sandbox_with(node, cubelet, volume_id)
    assert keepers(node) == 0, "it made way"
    digest = hashlib.sha256(content).hexdigest()
    assert (await node.sh(cubelet, sandbox_id, f"sha256sum {AT}/in/big.bin")).split()[0] == digest
    # As the sandbox's user: what is mounted belongs to it.
    write = "echo from-the-sandbox > note; mkdir -p deep/er; ln -s note link; ls -ld ."
    listed = await node.sh(cubelet, sandbox_id, f"cd {AT} && su user -c '{write}'")
    assert listed.startswith("drwxrwxrwx")
    assert "nosuid,nodev" in await node.sh(cubelet, sandbox_id, f"grep ' {AT} ' /proc/mounts")
    assert await ask(cubelet, volume_id, "GET", "file", "/note") == (200, b"from-the-sandbox\n"), "while it runs"
    await cubelet.delete_sandbox(sandbox_id)

    assert await ask(cubelet, volume_id, "GET", "file", "/note") == (200, b"from-the-sandbox\n")
    note, link = await shown(cubelet, volume_id, "/note"), await shown(cubelet, volume_id, "/link")
    assert (note["uid"], note["size"]) == (1000, 17)
    assert (link["type"], link["target"]) == ("symlink", "note")
    assert (await ask(cubelet, volume_id, "DELETE", "path", "/deep"))[0] == 204
    second = await sandbox_with(node, cubelet, volume_id, "/elsewhere")
    assert await node.sh(cubelet, second, "ls -A /elsewhere; cat /elsewhere/note") == "in\nlink\nnote\nfrom-the-sandbox"


async def test_one_sandbox_has_it_at_a_time(node: RealNode, cubelet: NodeClient, volume_id: str) -> None:
    sandbox_id = await sandbox_with(node, cubelet, volume_id)
    with pytest.raises(VolumeInUse, match=sandbox_id):
        await sandbox_with(node, cubelet, volume_id)
    with pytest.raises(VolumeInUse):
        await cubelet.volumes.delete(volume_id)
    with pytest.raises(VolumeNotFound):
        await sandbox_with(node, cubelet, new_volume_id())
    # Its root may mount a slot that has nothing in it as little as anybody else.
    empty = "! mount /dev/vde /mnt 2>/dev/null; head -c 4096 /dev/vde | tr -d '\\0'"
    assert await node.sh(cubelet, sandbox_id, empty) == ""


async def test_it_is_there_after_pauses_of_both_kinds(node: RealNode, cubelet: NodeClient, volume_id: str) -> None:
    sandbox_id = await sandbox_with(node, cubelet, volume_id)
    await node.sh(cubelet, sandbox_id, f"echo 1 > {AT}/file")
    await node.start(cubelet, sandbox_id, f"exec 3>>{AT}/held; while :; do echo tick >&3; sleep 0.2; done")
    await cubelet.pause_sandbox(sandbox_id, Pause())
    with pytest.raises(Conflict):
        await ask(cubelet, volume_id, "GET", "file", "/file")
    with pytest.raises(VolumeInUse):
        await sandbox_with(node, cubelet, volume_id)
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, f"echo 2 >> {AT}/file; cat {AT}/file") == "1\n2"
    before = int(await node.sh(cubelet, sandbox_id, f"wc -l < {AT}/held"))
    assert int(await node.sh(cubelet, sandbox_id, f"sleep 1; wc -l < {AT}/held")) > before, "who had it open goes on"

    await cubelet.pause_sandbox(sandbox_id, Pause(memory=False))
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, f"echo 3 >> {AT}/file; cat {AT}/file") == "1\n2\n3"
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again(memory=False))
    assert await node.sh(cubelet, sandbox_id, f"cat {AT}/file; ! dmesg | grep EXT4-fs.error") == "1\n2\n3"


async def test_it_survives_the_death_of_its_machine_and_of_cubelet(
    node: RealNode, cubelet: NodeClient, volume_id: str
) -> None:
    status, body = await ask(cubelet, volume_id, "PUT", "file", "/answered", b"durable")
    assert status == 201, body
    assert keepers(node) == 1
    process = node.service.process
    assert process is not None
    process.send_signal(signal.SIGKILL)
    node.after_its_death()
    assert (keepers(node), node.vmms()) == (0, 0), "nothing of a keeper is left"
    sandbox_id = await sandbox_with(node, cubelet, volume_id)
    assert await node.sh(cubelet, sandbox_id, f"cat {AT}/answered") == "durable"
    await node.sh(cubelet, sandbox_id, f"echo synced > {AT}/file; sync {AT}/file")

    process = node.service.process
    assert process is not None
    process.send_signal(signal.SIGKILL)
    node.after_its_death()
    with pytest.raises(VolumeInUse):
        await sandbox_with(node, cubelet, volume_id)
    assert await ask(cubelet, volume_id, "GET", "file", "/file") == (200, b"synced\n"), "its sandbox was adopted"

    os.kill(vmm_of(node), signal.SIGKILL)
    async with asyncio.timeout(60):
        while await cubelet.list_sandboxes():  # noqa: ASYNC110 - asked over a socket
            await asyncio.sleep(0.1)
    assert await ask(cubelet, volume_id, "GET", "file", "/file") == (200, b"synced\n")


async def test_what_is_deleted_takes_no_room(node: RealNode, cubelet: NodeClient, volume_id: str) -> None:
    empty = await used_mib(cubelet, volume_id)
    assert empty < 2
    sandbox_id = await sandbox_with(node, cubelet, volume_id)
    await node.sh(cubelet, sandbox_id, f"head -c 50M /dev/urandom > {AT}/big; sync")
    assert await used_mib(cubelet, volume_id) > 50
    await node.sh(cubelet, sandbox_id, f"rm {AT}/big; sync")
    async with asyncio.timeout(60):
        # The journal's turn frees it.
        while await used_mib(cubelet, volume_id) >= 50:  # noqa: ASYNC110 - asked over a socket
            await asyncio.sleep(0.2)


def vmm_of(node: RealNode) -> int:
    (record,) = (node.base / "data" / "sandboxes").glob("*/record.json")
    return int(json.loads(Path(record).read_bytes())["process"]["pid"])
