"""Cubelet killed at each step of pause, resume and snapshot: no sandbox lost, nothing half-written, the retry works."""

from __future__ import annotations

import pytest

from appliance.clients.node import NodeClient
from appliance.contracts.node import NodeSandboxState, Pause, Snapshot
from appliance.domain.errors import Unavailable
from tests.support.real_node import RealNode, again

pytestmark = [pytest.mark.root, pytest.mark.guest]

PAUSED, RUNNING = NodeSandboxState.PAUSED, NodeSandboxState.RUNNING


async def remembering(node: RealNode, cubelet: NodeClient) -> str:
    sandbox_id = await node.create(cubelet)
    await node.sh(cubelet, sandbox_id, "echo ram > /dev/shm/file; echo disk > /root/file")
    return sandbox_id


async def remembers(node: RealNode, cubelet: NodeClient, sandbox_id: str) -> None:
    assert await node.sh(cubelet, sandbox_id, "cat /dev/shm/file /root/file") == "ram\ndisk"


def shape(node: RealNode) -> set[str]:
    """Return the files of the one sandbox, by their place in its directory."""
    return {path.split("/", 2)[2] for path in node.files() if path.startswith("sandboxes/")}


AT_REST = {
    RUNNING: {"record.json", "upper.img"},
    PAUSED: {"record.json", "saved/saved.json", "saved/upper.img", "saved/vm/device-state", "saved/vm/changed-pages"},
}


@pytest.mark.parametrize(
    ("point", "becomes"),
    [
        ("pause:intended", RUNNING),
        ("pause:memory", RUNNING),
        ("pause:disk", RUNNING),
        ("pause:saved", PAUSED),
        ("pause:recorded", PAUSED),
    ],
)
async def test_a_pause_cut_short(point: str, becomes: NodeSandboxState, node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    node.arm(point)
    with pytest.raises(Unavailable):
        await cubelet.pause_sandbox(sandbox_id, Pause())
    node.after_its_death()
    assert (await cubelet.get_sandbox(sandbox_id)).state is becomes
    assert shape(node) == AT_REST[becomes]
    assert node.vmms() == (becomes is RUNNING)
    if becomes is RUNNING:
        await remembers(node, cubelet, sandbox_id)
    await cubelet.pause_sandbox(sandbox_id, Pause())
    assert (await cubelet.get_sandbox(sandbox_id)).generation == 1
    await cubelet.resume_sandbox(sandbox_id, again())
    await remembers(node, cubelet, sandbox_id)


@pytest.mark.parametrize(
    ("point", "becomes"),
    [
        ("resume:intended", PAUSED),
        ("resume:disk", PAUSED),
        ("resume:restored", PAUSED),
        ("resume:ready", PAUSED),
        ("resume:recorded", RUNNING),
    ],
)
async def test_a_resume_cut_short(point: str, becomes: NodeSandboxState, node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    await cubelet.pause_sandbox(sandbox_id, Pause())
    node.arm(point)
    with pytest.raises(Unavailable):
        await cubelet.resume_sandbox(sandbox_id, again())
    node.after_its_death()
    assert (await cubelet.get_sandbox(sandbox_id)).state is becomes
    assert shape(node) == AT_REST[becomes]
    assert node.vmms() == (becomes is RUNNING)
    await cubelet.resume_sandbox(sandbox_id, again())
    await remembers(node, cubelet, sandbox_id)
    assert shape(node) == AT_REST[RUNNING]
    await cubelet.delete_sandbox(sandbox_id)
    assert shape(node) == set()


@pytest.mark.parametrize("point", ["resume:restored", "resume:ready"])
async def test_a_boot_cut_short(point: str, node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    await cubelet.pause_sandbox(sandbox_id, Pause(memory=False))
    node.arm(point)
    with pytest.raises(Unavailable):
        await cubelet.resume_sandbox(sandbox_id, again())
    node.after_its_death()
    assert (await cubelet.get_sandbox(sandbox_id)).filesystem_only
    assert shape(node) == {"record.json", "saved/saved.json", "saved/upper.img"}
    assert node.vmms() == 0
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, "cat /root/file") == "disk"


@pytest.mark.parametrize(
    ("point", "taken"),
    [
        ("snapshot:memory", False),
        ("snapshot:disk", False),
        ("snapshot:resumed", False),
        ("snapshot:published", True),
    ],
)
async def test_a_snapshot_cut_short(point: str, taken: bool, node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    before = node.files()
    wanted = Snapshot(template_id="snap", build_id=f"snapshot-{sandbox_id}")
    node.arm(point)
    with pytest.raises(Unavailable):
        await cubelet.snapshot_sandbox(sandbox_id, wanted)
    node.after_its_death()
    assert (await cubelet.get_sandbox(sandbox_id)).state is RUNNING
    await remembers(node, cubelet, sandbox_id)
    added = node.files() - before
    assert all(path.startswith(f"templates/{wanted.build_id}/") for path in added)
    assert bool(added) is taken
    await cubelet.snapshot_sandbox(sandbox_id, wanted)
    child = await node.create(cubelet, build_id=wanted.build_id)
    await remembers(node, cubelet, child)
    await cubelet.delete_build("snap", wanted.build_id)
