"""Writing to a program that may not be reading."""

from __future__ import annotations

import asyncio
import os

from guest_agent.errors import Code, RpcError


class InputWriter:
    """Owns the write side of a program's stdin or terminal. Writes keep their order and wait while it is full."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor: int | None = descriptor
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Return when the kernel has taken all of `data`. Raise RpcError once the program no longer reads."""
        async with self._turn:
            rest = memoryview(data)
            while rest:
                if self._descriptor is None:
                    raise RpcError(Code.FAILED_PRECONDITION, "stdin not enabled or closed")
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    await self._until_writable(self._descriptor)
                except OSError as error:
                    raise RpcError(Code.INTERNAL, f"error writing to the process: {error.strerror}") from error

    async def _until_writable(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        loop.add_writer(descriptor, _wake, self._waiting)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if self._descriptor is not None:
                loop.remove_writer(descriptor)

    def close(self) -> None:
        """Give the program its end of file. A write that waits fails. Safe to repeat."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if self._waiting is not None:
            asyncio.get_running_loop().remove_writer(descriptor)
            _wake(self._waiting)
        os.close(descriptor)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
