"""The bash process that runs the cells: an interactive one without a terminal, which reads commands from a pipe.

Interactive, because only such a bash survives an interrupt, a syntax error or `${unset:?}` with its variables, and it
reads the user's ~/.bashrc. Its own standard error takes the prompts, which nobody wants to see.
"""

import asyncio
import os
import shlex
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from process_kernel.process import Event, Forward, OutputPipe, pipe_reader

# A shell started in the background of a script inherits SIGINT as ignored, and could not change that itself.
_BASH = ("env", "--default-signal", "bash", "-i")
# One process group for the shell and what it waits for, which an interrupt goes to. No terminal, so no history.
_SETUP = b"set +m +H +o history\n"


@dataclass(frozen=True, slots=True)
class Paths:
    """The kernel's pipes as bash opens them: by their path under /proc, not inherited, for the user's code to leave."""

    status: str
    errors: str


class BashProcess:
    """One bash process. Its variables, functions and working directory live as long as it does."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        statuses: asyncio.StreamReader,
        paths: Paths,
        outputs: Sequence[OutputPipe],
        resources: AsyncExitStack,
    ) -> None:
        self._process = process
        self._statuses = statuses
        self._paths = paths
        self._outputs = outputs
        self._resources = resources

    @classmethod
    async def start(cls, forward: Forward) -> "BashProcess":
        """Start bash. What is written to the standard streams of cells goes to `forward`, at any time."""
        async with AsyncExitStack() as ours, AsyncExitStack() as childs:
            statuses_out, statuses_in = os.pipe()
            ours.callback(os.close, statuses_in)
            statuses = await pipe_reader(statuses_out, ours)
            output, errors = OutputPipe("stdout", forward), OutputPipe("stderr", forward)
            for pipe in (output, errors):
                ours.callback(pipe.close)
            childs.callback(os.close, output.end_of_child)
            ours.callback(os.close, errors.end_of_child)
            process = await asyncio.create_subprocess_exec(
                *_BASH,
                stdin=asyncio.subprocess.PIPE,
                stdout=output.end_of_child,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            ours.push_async_callback(_end, process)
            _requests(process).write(_SETUP)
            paths = Paths(status=_path(statuses_in), errors=_path(errors.end_of_child))
            return cls(process, statuses, paths, (output, errors), ours.pop_all())
        raise AssertionError("unreachable")

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def run(self, code: str, number: int) -> AsyncIterator[Event]:
        """Run a cell and yield its events. Ends early, without `done`, if the process ends.

        An exit status other than 0 is the cell's error, without a name, as in Jupyter's bash kernel.
        """
        requests = _requests(self._process)
        with suppress(ConnectionError):
            requests.write(request(code, self._paths))
            await requests.drain()
        status = await self._status()
        for output in self._outputs:
            output.forward_available()
        if status is None:
            return
        if status != 0:
            yield {"type": "error", "ename": "", "evalue": str(status), "traceback": []}
        yield {"type": "done"}

    def interrupt(self) -> None:
        self._signal_all(signal.SIGINT)

    def kill(self) -> None:
        self._signal_all(signal.SIGKILL)

    async def close(self) -> int:
        """End the process and its group; return its status: the exit status, or a signal's number, negative."""
        await self._resources.aclose()
        return self._process.returncode or 0

    async def _status(self) -> int | None:
        """Return the exit status of the cell, or none if the process ends before it tells one."""
        line = asyncio.create_task(self._statuses.readline())
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait((line, ended), return_when=asyncio.FIRST_COMPLETED)
            return int(line.result()) if line.done() else None
        finally:
            line.cancel()
            ended.cancel()

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            _signal_group(self._process, number)


def request(code: str, paths: Paths) -> bytes:
    """Return the two commands for a cell: one runs it, the other tells its exit status.

    Two, since what throws the shell back to its prompt takes the rest of the command with it.
    """
    run = f"eval -- {shlex.quote(code)} </dev/null 2>{paths.errors}"
    tell = f'builtin echo "$?" >{paths.status}'
    return f"{run}\n{tell}\n".encode("utf-8", "replace")


def _path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _requests(process: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    assert process.stdin is not None, "started with a pipe"
    return process.stdin


async def _end(process: asyncio.subprocess.Process) -> None:
    # The group outlives its leader while jobs are left in it.
    _signal_group(process, signal.SIGKILL)
    _requests(process).close()
    await process.wait()


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
