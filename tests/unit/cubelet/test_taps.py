"""What becomes of a tap that is given back."""

from __future__ import annotations

import asyncio

import pytest

from appliance.cubelet.services.taps import TapPool
from appliance.cubevs.base import Tap
from appliance.cubevs.fake import FakeSwitch
from appliance.domain.errors import NetworkFailure


class BrokenSwitch(FakeSwitch):
    async def revoke(self, tap: Tap) -> None:
        raise NetworkFailure(f"{tap.name} cannot be revoked")


async def test_its_user_is_ended_though_the_switch_fails_and_nobody_else_gets_it() -> None:
    switch = BrokenSwitch()
    await switch.start()
    pool = TapPool(switch, spare=0)
    tap = await pool.acquire()
    ended = []

    async def end() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        ended.append(tap)

    with pytest.raises(NetworkFailure):
        await pool.release(tap, once=end())
    assert ended == [tap]
    assert pool.free == 0
