"""One execute request on its way through a kernel."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum, auto

from code_interpreter.events import Event, ExecutionFailed, KeepAlive
from code_interpreter.messages import Message, Progress, message_id

Emit = Callable[[Event], Awaitable[None]]

KEEP_ALIVE_S = 5.0


class Loss(Enum):
    """Why no more messages of an execution can come."""

    RESTARTED = auto()  # another process has taken the kernel's place
    DISCONNECTED = auto()

    @property
    def failure(self) -> ExecutionFailed:
        match self:
            case Loss.RESTARTED:
                return ExecutionFailed("ContextRestarting", "The kernel of the context was restarted", "")
            case Loss.DISCONNECTED:
                return ExecutionFailed(
                    "UnexpectedEndOfExecution", "The connection to the kernel ended before the execution", ""
                )


class Execution:
    """An execute request on its way: what the kernel says of it, until it is over."""

    def __init__(self, request: Message) -> None:
        self.request = request
        self.id = message_id(request)
        self._incoming: asyncio.Queue[Message | Loss] = asyncio.Queue()
        self._progress = Progress()
        self._lost = False

    def deliver(self, item: Message | Loss) -> None:
        self._incoming.put_nowait(item)

    async def follow(self, emit: Emit) -> None:
        """Emit what happens until the execution is over, and something at least every `KEEP_ALIVE_S`."""
        while not self._over:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    item = await self._incoming.get()
                events = self._take(item)
            except TimeoutError:
                events = self._progress.fall_silent() or [KeepAlive()]
            for event in events:
                await emit(event)

    async def finished_within(self, seconds: float) -> bool:
        """Drop messages until the execution is over; tell whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._over:
                    self._take(await self._incoming.get())
        return self._over

    @property
    def _over(self) -> bool:
        return self._lost or self._progress.finished

    def _take(self, item: Message | Loss) -> Sequence[Event]:
        if isinstance(item, Loss):
            self._lost = True
            return [item.failure]
        return self._progress.feed(item)
