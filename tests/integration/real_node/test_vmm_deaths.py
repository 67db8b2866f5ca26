"""The VMM killed at each step of pause, resume and snapshot: the sandbox has ended whole, or is paused whole."""

from __future__ import annotations

import asyncio

import pytest

from appliance.clients.node import NodeClient
from appliance.contracts.node import EndReason, NodeSandboxState, Pause, Snapshot
from appliance.domain.errors import CubeError, NodeFailure
from tests.integration.real_node.test_crashes import AT_REST, PAUSED, remembering, remembers, shape
from tests.support.real_node import RealNode, again

pytestmark = [pytest.mark.root, pytest.mark.guest]

ENDED = None


async def has_ended(node: RealNode, cubelet: NodeClient, sandbox_id: str) -> None:
    """Wait until it is reported as ended because of its VMM, and nothing is left of it."""
    async with asyncio.timeout(30):
        while await cubelet.list_sandboxes():  # noqa: ASYNC110 - asked over a socket
            await asyncio.sleep(0.05)
    assert node.ended()[sandbox_id] is EndReason.VMM_DIED
    assert shape(node) == set()
    assert list((node.base / "vm").iterdir()) == []
    assert node.vmms() == 0


@pytest.mark.parametrize(
    ("point", "becomes"),
    [("pause:intended", ENDED), ("pause:memory", PAUSED), ("pause:disk", PAUSED), ("pause:saved", PAUSED)],
)
async def test_of_a_pause(point: str, becomes: NodeSandboxState | None, node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    async with node.held_at(point, cubelet.pause_sandbox(sandbox_id, Pause())) as paused:
        await node.kill_vmms()
    if becomes is ENDED:
        with pytest.raises(CubeError):
            await paused
        await has_ended(node, cubelet, sandbox_id)
        return
    await paused
    assert (await cubelet.get_sandbox(sandbox_id)).state is PAUSED
    assert shape(node) == AT_REST[PAUSED]
    await cubelet.resume_sandbox(sandbox_id, again())
    await remembers(node, cubelet, sandbox_id)


@pytest.mark.parametrize(
    ("point", "memory"), [("resume:restored", True), ("resume:ready", True), ("resume:ready", False)]
)
async def test_of_a_resume(point: str, *, memory: bool, node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    await cubelet.pause_sandbox(sandbox_id, Pause(memory=memory))
    before = node.files()
    async with node.held_at(point, cubelet.resume_sandbox(sandbox_id, again())) as resumed:
        await node.kill_vmms()
    with pytest.raises(NodeFailure):
        await resumed
    assert (await cubelet.get_sandbox(sandbox_id)).state is PAUSED
    assert node.files() == before
    assert node.vmms() == 0
    await cubelet.resume_sandbox(sandbox_id, again())
    assert await node.sh(cubelet, sandbox_id, "cat /root/file") == "disk"
    if memory:
        await remembers(node, cubelet, sandbox_id)


async def test_just_after_a_resume(node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    await cubelet.pause_sandbox(sandbox_id, Pause())
    async with node.held_at("resume:recorded", cubelet.resume_sandbox(sandbox_id, again())) as resumed:
        await node.kill_vmms()
    await asyncio.gather(resumed, return_exceptions=True)
    await has_ended(node, cubelet, sandbox_id)


@pytest.mark.parametrize(
    ("point", "taken"),
    [
        ("snapshot:intended", False),
        ("snapshot:memory", True),
        ("snapshot:disk", True),
        ("snapshot:resumed", True),
        ("snapshot:published", True),
    ],
)
async def test_of_a_snapshot(point: str, *, taken: bool, node: RealNode, cubelet: NodeClient) -> None:
    sandbox_id = await remembering(node, cubelet)
    before = {path for path in node.files() if path.startswith("templates/")}
    wanted = Snapshot(template_id="snap", build_id=f"snapshot-{sandbox_id}")
    async with node.held_at(point, cubelet.snapshot_sandbox(sandbox_id, wanted)) as snapshot:
        await node.kill_vmms()
    if taken:
        await snapshot
    else:
        with pytest.raises(NodeFailure):
            await snapshot
    await has_ended(node, cubelet, sandbox_id)
    if taken:
        child = await node.create(cubelet, build_id=wanted.build_id)
        await remembers(node, cubelet, child)
        await cubelet.delete_sandbox(child)
    await cubelet.delete_build("snap", wanted.build_id)
    assert node.files() == before
