"""The Node.js process that runs the cells, and the lines of JSON exchanged with it."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

_DRIVER = Path(__file__).with_name("node") / "driver.mjs"
_NODE_OPTIONS = ("--experimental-import-meta-resolve",)
_LINE_LIMIT = 2**30  # bytes; a cell may show a large value
_CHUNK = 65536

Event = Mapping[str, Any]
Forward = Callable[[Event], None]


class NodeProcess:
    """One Node.js process. Its variables live as long as it does.

    Requests go to it and events come from it over two pipes of their own, so that its standard streams belong
    to the user's code and to what that starts.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        requests: asyncio.StreamWriter,
        events: asyncio.StreamReader,
        resources: AsyncExitStack,
    ) -> None:
        self._process = process
        self._requests = requests
        self._events = events
        self._resources = resources

    @classmethod
    async def start(cls, forward: Forward) -> "NodeProcess":
        """Start Node.js. What is written to its standard streams goes to `forward`, at any time."""
        async with AsyncExitStack() as stack:
            requests_out, requests_in = os.pipe()
            events_out, events_in = os.pipe()
            with contextlib.ExitStack() as childs:
                childs.callback(os.close, requests_out)
                childs.callback(os.close, events_in)
                writer = await _writer(requests_in)
                stack.callback(writer.close)
                events = await _reader(events_out, stack)
                process = await asyncio.create_subprocess_exec(
                    "node",
                    *_NODE_OPTIONS,
                    str(_DRIVER),
                    str(requests_out),
                    str(events_in),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=(requests_out, events_in),
                )
            assert process.stdout is not None
            assert process.stderr is not None
            readers = [
                asyncio.create_task(_copy(process.stdout, "stdout", forward)),
                asyncio.create_task(_copy(process.stderr, "stderr", forward)),
            ]
            stack.push_async_callback(_end, process, readers)
            return cls(process, writer, events, stack.pop_all())
        raise AssertionError("unreachable")

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def run(self, code: str, number: int) -> AsyncIterator[Event]:
        """Run a cell and yield its events. Ends early, without `done`, if the process ends."""
        request = {"code": code, "number": number}
        with contextlib.suppress(ConnectionError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            await self._requests.drain()
        while line := await self._events.readline():
            event = json.loads(line)
            yield event
            if event["type"] == "done":
                return

    def interrupt(self) -> None:
        _signal(self._process, signal.SIGINT)

    def kill(self) -> None:
        _signal(self._process, signal.SIGKILL)

    async def close(self) -> int:
        """End the process and return its status: the exit status, or a signal's number, negative."""
        await self._resources.aclose()
        return self._process.returncode or 0


async def _end(process: asyncio.subprocess.Process, readers: Sequence[asyncio.Task[None]]) -> None:
    _signal(process, signal.SIGKILL)
    await process.wait()
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not through the process object: that would take the status of a process that has just ended.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def _copy(stream: asyncio.StreamReader, name: str, forward: Forward) -> None:
    """Forward what the code's own child processes, or Node itself, write to a standard stream."""
    while chunk := await stream.read(_CHUNK):
        forward({"type": "stream", "name": name, "text": chunk.decode(errors="replace")})


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(descriptor, "wb", buffering=0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _reader(descriptor: int, stack: AsyncExitStack) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_LIMIT)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    stack.callback(transport.close)
    return reader
