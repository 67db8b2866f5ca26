"""Cubelet, or the VMM, killed at each step of a build: nothing is left, and the next attempt gets past that step."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from appliance.contracts.node import BuildProgress, BuildRequest, BuildState
from appliance.domain.errors import BuildNotFound, Unavailable
from tests.integration.template_builds.conftest import Node, said, step
from tests.support.waiting import eventually

POINTS = (
    "template:imported",
    "template:disk",
    "template:launched",
    "template:stepped",
    "template:step-copied",
    "template:step-kept",
    "template:started",
    "template:finalized",
    "template:saved",
    "template:published",
)
NEEDING_THE_VMM = (
    "template:launched",
    "template:stepped",
    "template:step-copied",
    "template:started",
    "template:finalized",
)
"""Without `step-kept`: that the step before is kept makes no difference to the next one."""


def wanted(node: Node, template_id: str) -> BuildRequest:
    steps = (step("RUN", "echo one > one"), step("RUN", "echo two > two"))
    start = {"start_cmd": "sleep infinity", "ready_cmd": "true"}
    return node.request(*steps, template_id=template_id, **start)


async def reached(node: Node, point: str, what: str) -> None:
    """Wait until Cubelet has come to `point`, where `what` becomes of it."""
    failpoint = node.base / "failpoint"
    failpoint.write_text(f"{point} {what}")
    await eventually(lambda: not failpoint.exists(), seconds=120)


async def works(node: Node, request: BuildRequest) -> None:
    async with node.sandbox(request.build_id) as guest:
        assert await said(guest, "pgrep -fx 'sleep infinity' > /dev/null && cat one two") == "one\ntwo"
    await node.client.delete_build(request.template_id, request.build_id)


async def test_cubelet_killed_at_each_step(node: Node) -> None:
    request = wanted(node, "cubelet-killed")
    for point in POINTS:
        reaching = asyncio.ensure_future(reached(node, point, "kill"))
        await asyncio.sleep(0)
        # The build before this one was killed at the step before: this is its retry.
        with suppress(Unavailable):
            # The first steps are done before the answer is out.
            await node.client.start_build(request)
        await reaching
        await asyncio.to_thread(node.cubelet.after_its_death)
        assert not any(node.left().values()), (point, node.left())
        if point == "template:published":
            continue
        with pytest.raises(BuildNotFound):
            await node.client.get_build(request.build_id)
        assert not list((node.base / "data" / "templates").glob(f"*{request.build_id}*"))
    progress = await node.client.get_build(request.build_id)
    assert progress.state is BuildState.READY
    await works(node, request)


async def test_the_vmm_killed_at_each_step(node: Node) -> None:
    request = wanted(node, "vmm-killed")
    for point in NEEDING_THE_VMM:
        progress = await _without_its_vmm(node, point, request)
        assert progress.state is BuildState.ERROR
        assert "ended by itself" in (progress.reason or ""), (point, progress.reason)
        await eventually(lambda: not any(node.left().values()))
    # From here on it is not needed any more.
    progress = await _without_its_vmm(node, "template:saved", request)
    assert progress.state is BuildState.READY, progress.reason
    await works(node, request)


async def _without_its_vmm(node: Node, point: str, request: BuildRequest) -> BuildProgress:
    """Kill the VMM while the build stands at `point`, and return how the build ended."""
    reaching = asyncio.ensure_future(reached(node, point, "hold"))
    await asyncio.sleep(0)
    await node.client.start_build(request)
    await reaching
    (pid,) = node.vmms()
    os.kill(int(pid), signal.SIGKILL)
    await eventually(lambda: not node.vmms())
    (node.base / "failpoint").touch()
    # As soon as its machine is gone, and not when a step should have been done.
    async with asyncio.timeout(30):
        while (progress := await node.client.get_build(request.build_id)).state is BuildState.BUILDING:  # noqa: ASYNC110 - asks
            await asyncio.sleep(0.1)
    return progress
