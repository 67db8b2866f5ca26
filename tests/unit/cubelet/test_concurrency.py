from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from appliance.common.clock import FakeClock
from appliance.cubelet.concurrency import Activity, KeyedLocks


async def test_one_key_is_held_by_one_and_others_are_free() -> None:
    locks = KeyedLocks[str]()
    order: list[str] = []
    release = asyncio.Event()

    async def first() -> None:
        async with locks.hold("a"):
            order.append("first")
            await release.wait()

    async def second() -> None:
        async with locks.hold("a"):
            order.append("second")

    async with asyncio.TaskGroup() as group:
        group.create_task(first())
        group.create_task(second())
        await asyncio.sleep(0)
        async with locks.hold("b"):
            order.append("other key")
        release.set()
    assert order == ["first", "other key", "second"]
    assert not locks._locks


async def test_a_cancelled_waiter_leaves_nothing() -> None:
    locks = KeyedLocks[str]()
    async with locks.hold("a"):
        waiter = asyncio.create_task(locks.hold("a").__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    assert not locks._locks


def test_activity_that_fails_has_ended() -> None:
    clock = FakeClock()
    activity = Activity(clock)

    def fail() -> None:
        clock.advance(timedelta(seconds=3))
        assert activity.idle_s == 0
        raise ValueError("x")

    assert activity.idle_s == float("inf")
    with pytest.raises(ValueError, match="x"), activity.one():
        fail()
    assert activity.idle_s == 0
    clock.advance(timedelta(seconds=2))
    assert activity.idle_s == 2


def test_activity_goes_on_until_the_last_call_has_ended() -> None:
    clock = FakeClock()
    activity = Activity(clock)
    with activity.one():
        with activity.one():
            pass
        clock.advance(timedelta(seconds=2))
        assert activity.idle_s == 0
