"""Background loops of a process: started together, restarted when one fails, cancelled together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

log = structlog.get_logger()

_ASK_AGAIN_S = 1


class Supervisor:
    """Runs loops for the life of an `async with` block.

    `every` calls a step again and again; a step that raises is logged and retried after `pause`, so that one bad row
    or a database that is away never ends a loop for good.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        while self._tasks:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            # Python 3.11's wait_for can swallow a cancellation that meets its result: such a task is asked again.
            await asyncio.wait(tasks, timeout=_ASK_AGAIN_S)

    def every(self, interval: timedelta, step: Callable[[], Awaitable[None]], *, name: str) -> None:
        """Call `step` now, and again `interval` after each call has ended."""

        async def loop() -> None:
            while not self._closing:
                try:
                    await step()
                except Exception:
                    log.exception("loop_step_failed", loop=name)
                await asyncio.sleep(interval.total_seconds())

        self.spawn(loop(), name=name)

    def spawn(self, work: Awaitable[None], *, name: str) -> asyncio.Task[None]:
        """Run `work` in the background until it ends or the block is left; a failure is logged."""

        async def guarded() -> None:
            try:
                await work
            except Exception:
                log.exception("background_work_failed", work=name)

        task = asyncio.create_task(guarded(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
