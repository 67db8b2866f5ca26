"""Taps kept ready: making one costs milliseconds and deleting one tens of them, so creates do neither."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from appliance.cubevs.base import Switch, Tap


class TapPool:
    """Free taps of this node. A tap goes back revoked, and is reused by the next VM."""

    def __init__(self, switch: Switch, *, spare: int) -> None:
        self._switch = switch
        self._spare = spare
        self._free: deque[Tap] = deque()
        self._making = asyncio.Lock()

    def adopt(self, free: list[Tap]) -> None:
        """Take over the taps that no VM of a former Cubelet uses."""
        self._free.extend(free)

    async def acquire(self) -> Tap:
        """Return a tap that nobody uses: a spare one, or a new one when the spares are used up."""
        if self._free:
            return self._free.popleft()
        async with self._making:
            return await self._switch.create_tap()

    async def release(self, tap: Tap, *, once: Coroutine[Any, Any, object] | None = None) -> None:
        """Give a tap back; whatever was open through it is reset. Meanwhile run `once`, which ends its use."""
        steps = [self._switch.revoke(tap), *([] if once is None else [once])]
        # Neither is given up for the other's failure: a VMM that is to end must, whatever the switch says.
        for failure in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure
        self._free.append(tap)

    async def replenish(self) -> None:
        """Make taps until the spares are complete."""
        while len(self._free) < self._spare:
            async with self._making:
                tap = await self._switch.create_tap()
            self._free.append(tap)

    @property
    def free(self) -> int:
        return len(self._free)
