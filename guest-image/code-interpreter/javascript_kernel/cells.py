"""The Node.js process that runs the cells, and the lines of JSON exchanged with it."""

import asyncio
import codecs
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
_MORE_THAN_A_PIPE_HOLDS = 2**20  # bytes

Event = Mapping[str, Any]
Forward = Callable[[Event], None]


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
        outputs: Sequence[OutputPipe],
        resources: AsyncExitStack,
    ) -> None:
        self._process = process
        self._requests = requests
        self._events = events
        self._outputs = outputs
        self._resources = resources

    @classmethod
    async def start(cls, forward: Forward) -> "NodeProcess":
        """Start Node.js. What is written to its standard streams goes to `forward`, at any time."""
        # Two stacks: the ends of the pipes that the child has are closed here once it has them.
        async with AsyncExitStack() as ours, AsyncExitStack() as childs:
            requests_out, requests_in = os.pipe()
            childs.callback(os.close, requests_out)
            requests = await _writer(requests_in, ours)
            events_out, events_in = os.pipe()
            childs.callback(os.close, events_in)
            events = await _reader(events_out, ours)
            outputs = [OutputPipe("stdout", forward), OutputPipe("stderr", forward)]
            for output in outputs:
                ours.callback(output.close)
                childs.callback(os.close, output.end_of_child)
            process = await asyncio.create_subprocess_exec(
                "node",
                *_NODE_OPTIONS,
                str(_DRIVER),
                str(requests_out),
                str(events_in),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=outputs[0].end_of_child,
                stderr=outputs[1].end_of_child,
                pass_fds=(requests_out, events_in),
            )
            ours.push_async_callback(_end, process)
            return cls(process, requests, events, outputs, ours.pop_all())
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
            if event["type"] == "done":
                # Written before the cell ended, but to another pipe.
                for output in self._outputs:
                    output.forward_available()
                yield event
                return
            yield event

    def interrupt(self) -> None:
        _signal(self._process, signal.SIGINT)

    def kill(self) -> None:
        _signal(self._process, signal.SIGKILL)

    async def close(self) -> int:
        """End the process and return its status: the exit status, or a signal's number, negative."""
        await self._resources.aclose()
        return self._process.returncode or 0


async def _end(process: asyncio.subprocess.Process) -> None:
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not through the process object: that would take the status of a process that has just ended.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def _writer(descriptor: int, stack: AsyncExitStack) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(descriptor, "wb", buffering=0)
    )
    stack.callback(transport.close)
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _reader(descriptor: int, stack: AsyncExitStack) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_LIMIT)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    stack.callback(transport.close)
    return reader
