"""Traffic for a paused sandbox: what its route says, and how it is woken."""

from __future__ import annotations

import asyncio

import pytest

from appliance.contracts.master import NewPause, SandboxState, SandboxView
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance


async def _paused(appliance: Appliance, *, memory: bool = True, **fields: object) -> SandboxView:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id, **fields)
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause(memory=memory))
    return made


async def test_the_route_of_a_paused_one_says_whether_traffic_wakes_it(appliance: Appliance) -> None:
    asleep = await _paused(appliance, auto_resume=True)
    shut = await _paused(appliance)
    on_disk = await _paused(appliance, memory=False, auto_resume=True)

    wakes = await appliance.master.get_route(asleep.sandbox_id)

    assert (wakes.state, wakes.address, wakes.node, wakes.auto_resume) == ("paused", None, "cube-1", True)
    assert not (await appliance.master.get_route(shut.sandbox_id)).auto_resume
    assert not (await appliance.master.get_route(on_disk.sandbox_id)).auto_resume
    for one in (shut, on_disk):
        with pytest.raises(errors.Forbidden, match="not resumed by traffic"):
            await appliance.master.wake(one.sandbox_id)
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.wake("iunknown")


async def test_all_who_wake_it_at_one_time_share_one_resume(appliance: Appliance) -> None:
    asleep = await _paused(appliance, auto_resume=True, timeout_s=3600)

    routes = await asyncio.gather(*(appliance.master.wake(asleep.sandbox_id) for _ in range(20)))

    address = appliance.node.sandboxes[asleep.sandbox_id].address
    assert {(one.state, one.address) for one in routes} == {("running", address)}
    assert len(appliance.node.resumes[asleep.sandbox_id]) == 1
    assert await appliance.reserved() == (1, 512)
    woken = await appliance.master.get_sandbox(asleep.sandbox_id)
    assert woken.state is SandboxState.RUNNING
    (resume,) = appliance.node.resumes[asleep.sandbox_id]
    assert resume.end_at == woken.end_at
    # Five minutes, whatever it was created with.
    assert 0 < (asleep.end_at - woken.end_at).total_seconds() < 3600 - 300 + 1
    assert (await appliance.master.wake(asleep.sandbox_id)).address == address


async def test_all_who_wake_it_share_its_failure_and_the_next_tries_again(appliance: Appliance) -> None:
    asleep = await _paused(appliance, auto_resume=True)
    appliance.node.fail_resume = errors.VmmFailure("it did not restore")

    outcomes = await asyncio.gather(
        *(appliance.master.wake(asleep.sandbox_id) for _ in range(5)), return_exceptions=True
    )

    assert {type(one) for one in outcomes} == {errors.VmmFailure}
    appliance.node.fail_resume = None
    assert (await appliance.master.wake(asleep.sandbox_id)).state == "running"


async def test_one_that_is_being_killed_does_not_wake(appliance: Appliance) -> None:
    asleep = await _paused(appliance, auto_resume=True)
    await appliance.master.kill_sandbox(asleep.sandbox_id)
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.wake(asleep.sandbox_id)
    assert await appliance.reserved() == (0, 0)
