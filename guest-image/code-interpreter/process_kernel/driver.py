"""A process that runs the cells by a driver of ours: a program in the language that it runs, which lines of JSON go to
and come from.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from process_kernel.process import Event, Forward, OutputPipe, pipe_reader, pipe_writer, send_signal


class DriverProcess:
    """One process. Its variables live as long as it does.

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
    async def start(cls, argv: Sequence[str], forward: Forward) -> "DriverProcess":
        """Start a driver, which gets the descriptors to read from and to write to as its last arguments.

        What its standard streams get goes to `forward`, at any time.
        """
        # Two stacks: the ends of the pipes that the child has are closed here once it has them.
        async with AsyncExitStack() as ours, AsyncExitStack() as childs:
            requests_out, requests_in = os.pipe()
            childs.callback(os.close, requests_out)
            requests = await pipe_writer(requests_in, ours)
            events_out, events_in = os.pipe()
            childs.callback(os.close, events_in)
            events = await pipe_reader(events_out, ours)
            outputs = [OutputPipe("stdout", forward), OutputPipe("stderr", forward)]
            for output in outputs:
                ours.callback(output.close)
                childs.callback(os.close, output.end_of_child)
            process = await asyncio.create_subprocess_exec(
                *argv,
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
        send_signal(self._process, signal.SIGINT)

    def kill(self) -> None:
        send_signal(self._process, signal.SIGKILL)

    async def close(self) -> int:
        """End the process and return its status: the exit status, or a signal's number, negative."""
        await self._resources.aclose()
        return self._process.returncode or 0


async def _end(process: asyncio.subprocess.Process) -> None:
    send_signal(process, signal.SIGKILL)
    await process.wait()
