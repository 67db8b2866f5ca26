"""Running a program to its end, with a deadline and a cap on what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from appliance.domain.errors import DeadlineExceeded, NodeFailure

_STDERR_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program that exited with 0 printed."""

    stdout: bytes
    stderr: bytes = field(repr=False)


class CommandFailed(NodeFailure):
    """A program could not be started, exited with another status than 0, or printed more than it may."""

    def __init__(self, argv: Sequence[str], detail: str, *, returncode: int | None = None, stderr: bytes = b"") -> None:
        said = stderr[-_STDERR_TAIL:].decode(errors="replace").strip()
        super().__init__(f"{argv[0]} {detail}{f': {said}' if said else ''}")
        self.argv = tuple(argv)
        self.returncode = returncode
        """None where it did not end by itself."""
        self.stderr = stderr


async def run(
    argv: Sequence[str],
    *,
    deadline: timedelta,
    stdin: bytes | None = None,
    max_output_bytes: int = 2**20,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run `argv` and return its output.

    Raises CommandFailed, or DeadlineExceeded. However this call ends, the program and what it started have ended:
    they form a session of their own, which is killed as a whole.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=DEVNULL if stdin is None else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(argv, f"could not be started: {error.strerror}") from error
    assert process.stdout is not None
    assert process.stderr is not None

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    try:
        async with asyncio.timeout(deadline.total_seconds()):
            stdout, stderr, _ = await asyncio.gather(
                _collect(process.stdout, max_output_bytes, end),
                _collect(process.stderr, max_output_bytes, end),
                _feed(process.stdin, stdin or b""),
            )
            returncode = await process.wait()
    except BaseException as error:
        end()
        # Pipes are closed by being read to their end.
        await asyncio.gather(_collect(process.stdout, 0, end), _collect(process.stderr, 0, end), process.wait())
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded(argv[0], deadline.total_seconds()) from None
        raise
    if max(len(stdout), len(stderr)) > max_output_bytes:
        raise CommandFailed(argv, f"printed more than {max_output_bytes} bytes")
    if returncode != 0:
        raise CommandFailed(argv, f"exited with {returncode}", returncode=returncode, stderr=stderr)
    return Completed(stdout, stderr)


async def _collect(stream: asyncio.StreamReader, limit: int, too_much: Callable[[], None]) -> bytes:
    """Read to the end, which closes the pipe. Past `limit` call `too_much`, once, and drop the rest."""
    data = bytearray()
    while chunk := await stream.read(65536):
        if len(data) <= limit:
            data += chunk
            if len(data) > limit:
                too_much()
    return bytes(data)


async def _feed(stdin: asyncio.StreamWriter | None, data: bytes) -> None:
    if stdin is None:
        return
    # A program may end without reading its input; its exit status tells whether that was right.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()
