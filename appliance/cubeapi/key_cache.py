"""Who a key belongs to, remembered for a moment.

The moment counts from before CubeMaster was asked, so a key that is revoked is dead after it, on every CubeAPI. A key
in use is asked about again in the second half of it, beside its requests: none of them waits for the answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from appliance.common.clock import Clock
from appliance.contracts.master import ResolvedKey
from appliance.domain.errors import CubeError, Unauthenticated

_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    key: ResolvedKey
    asked_at: float


class KeyCache:
    """Knows keys by their SHA-256; unknown ones are not remembered."""

    def __init__(self, ask: Callable[[str], Awaitable[ResolvedKey]], *, clock: Clock, ttl: timedelta) -> None:
        self._ask = ask
        self._clock = clock
        self._ttl_s = ttl.total_seconds()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[ResolvedKey | CubeError]] = {}

    def has_seen(self, digest: str) -> bool:
        """Return whether the key was valid when it was last asked about."""
        return digest in self._known

    async def get(self, digest: str) -> ResolvedKey:
        """Return whose key it is, or raise what CubeMaster raised."""
        known = self._known.get(digest)
        age = self._clock.monotonic() - known.asked_at if known else self._ttl_s
        if known is not None and age < self._ttl_s:
            if age >= self._ttl_s / 2:
                self._refresh(digest)
            return known.key
        # Shielded: others may wait for the same answer.
        answer = await asyncio.shield(self._refresh(digest))
        if isinstance(answer, CubeError):
            raise answer
        return answer

    async def close(self) -> None:
        """End what is still being asked."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _refresh(self, digest: str) -> asyncio.Task[ResolvedKey | CubeError]:
        """Ask, unless that is being done, and return the task, which never fails."""
        if digest not in self._asking:
            task = asyncio.create_task(self._answer(digest), name="resolve key")
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return self._asking[digest]

    async def _answer(self, digest: str) -> ResolvedKey | CubeError:
        asked_at = self._clock.monotonic()
        try:
            key = await self._ask(digest)
        except Unauthenticated as error:
            self._known.pop(digest, None)
            return error
        except CubeError as error:
            # CubeMaster is away. What is known stays known until its time is up.
            return error
        self._known[digest] = _Known(key, asked_at)
        self._known.move_to_end(digest)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return key
