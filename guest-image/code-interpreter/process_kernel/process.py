"""What a kernel asks of the process that runs its cells, and the pipes to such a process."""

import asyncio
import codecs
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

_LINE_LIMIT = 2**30  # bytes; a cell may show a large value
_MORE_THAN_A_PIPE_HOLDS = 2**20  # bytes

Event = Mapping[str, Any]
Forward = Callable[[Event], None]


class CellProcess(Protocol):
    """A running process. The variables of cells live as long as it does."""

    @property
    def returncode(self) -> int | None:
        """None as long as the process is known to run."""

    def run(self, code: str, number: int) -> AsyncIterator[Event]:
        """Run a cell and yield its events. Ends early, without `done`, if the process ends."""

    def interrupt(self) -> None:
        """Interrupt the cell. Does not wait; an ended process is success."""

    def kill(self) -> None:
        """End the process at once. Does not wait; an ended process is success."""

    async def close(self) -> int:
        """End the process and return its status: the exit status, or a signal's number, negative."""


class OutputPipe:
    """A standard stream of the process: what is written to it is forwarded."""

    def __init__(self, name: str, forward: Forward) -> None:
        self._name = name
        self._forward = forward
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._descriptor, self.end_of_child = os.pipe()
        os.set_blocking(self._descriptor, False)
        asyncio.get_running_loop().add_reader(self._descriptor, self.forward_available)

    def forward_available(self) -> None:
        """Forward all that the pipe holds at this moment."""
        try:
            chunk = os.read(self._descriptor, _MORE_THAN_A_PIPE_HOLDS)
        except BlockingIOError:
            return
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        if text := self._decoder.decode(chunk, final=not chunk):
            self._forward({"type": "stream", "name": self._name, "text": text})

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)


def send_signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not through the process object: that would take the status of a process that has just ended.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def pipe_writer(descriptor: int, stack: AsyncExitStack) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(descriptor, "wb", buffering=0)
    )
    stack.callback(transport.close)
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def pipe_reader(descriptor: int, stack: AsyncExitStack) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_LIMIT)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    stack.callback(transport.close)
    return reader
