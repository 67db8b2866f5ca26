"""One listener to one process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta

from guest_agent.process.events import Ended, Event, Keepalive

MAX_PENDING = 64
"""Events a listener may lag behind before the process's output is left in its pipe, as E2B's agent does."""


class Subscription:
    """Collects events for a listener that takes them in batches."""

    def __init__(self, first: Event, on_drained: Callable[[], None]) -> None:
        self._pending: deque[Event] = deque((first,))
        self._arrived = asyncio.Event()
        self._arrived.set()
        self._on_drained = on_drained

    def put(self, event: Event) -> None:
        self._pending.append(event)
        self._arrived.set()

    @property
    def full(self) -> bool:
        return len(self._pending) >= MAX_PENDING

    async def batches(self, keepalive: timedelta) -> AsyncGenerator[list[Event], None]:
        """Yield what is there as soon as there is any, a Keepalive after each silence; return after Ended."""
        while True:
            try:
                async with asyncio.timeout(keepalive.total_seconds()):
                    await self._arrived.wait()
            except TimeoutError:
                yield [Keepalive()]
                continue
            batch = list(self._pending)
            self._pending.clear()
            self._arrived.clear()
            self._on_drained()
            yield batch
            if isinstance(batch[-1], Ended):
                return
