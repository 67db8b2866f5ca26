from __future__ import annotations

import asyncio
from datetime import timedelta

from appliance.common.supervisor import Supervisor


async def test_a_loop_survives_a_failing_step() -> None:
    calls = 0
    twice = asyncio.Event()

    async def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        raise RuntimeError("one bad row")

    async with Supervisor() as supervisor:
        supervisor.every(timedelta(0), step, name="loop")
        async with asyncio.timeout(10):
            await twice.wait()


async def test_leaving_ends_work_that_swallows_a_cancellation() -> None:
    started, swallowed = asyncio.Event(), 0

    async def stubborn() -> None:
        nonlocal swallowed
        started.set()
        while swallowed < 1:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.sleep(3600)

    async with asyncio.timeout(30):
        async with Supervisor() as supervisor:
            supervisor.spawn(stubborn(), name="stubborn")
            await started.wait()
    assert swallowed == 1


async def test_a_loop_whose_step_swallows_its_cancellation_does_not_go_round_again() -> None:
    started, rounds = asyncio.Event(), 0

    async def step() -> None:
        nonlocal rounds
        rounds += 1
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return

    async with asyncio.timeout(30):
        async with Supervisor() as supervisor:
            supervisor.every(timedelta(0), step, name="loop")
            await started.wait()
    assert rounds == 1
