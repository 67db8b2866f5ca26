"""Commands in the guest of a build: their output becomes the log, their failure the build's reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from appliance.clients.guest import GuestClient
from appliance.cubelet.builds.context import StepContext
from appliance.cubelet.builds.output import LineSplitter
from appliance.cubelet.builds.progress import Build
from appliance.domain.errors import GuestFailure, GuestRefused

_TAIL = 20
"""Last lines of a command that are looked at when it fails."""
_NO_SPACE = "No space left on device"


@dataclass(frozen=True, slots=True)
class Finished:
    exit_code: int
    tail: tuple[str, ...]
    """The last lines it wrote, of both streams."""


class GuestShell:
    """Runs one build's commands, one at a time."""

    def __init__(self, build: Build, guest: GuestClient) -> None:
        self._build = build
        self._guest = guest

    async def follow(
        self,
        argv: tuple[str, ...],
        *,
        prefix: str,
        deadline: timedelta | None,
        user: str | None,
        envs: Mapping[str, str],
        cwd: str | None,
        level: str = "info",
        on_start: Callable[[], None] = lambda: None,
    ) -> Finished:
        """Run a program to its end with its lines in the log."""
        splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        tail: deque[str] = deque(maxlen=_TAIL)

        def keep(stream: str, lines: list[str]) -> None:
            tail.extend(lines)
            for line in lines:
                self._build.quote(f"[{prefix}] [{stream}]: {line}", level=level)

        try:
            exit_code = await self._guest.follow(
                argv,
                lambda stream, data: keep(stream, splitters[stream].feed(data)),
                deadline=deadline,
                user=user,
                envs=envs,
                cwd=cwd,
                on_start=on_start,
            )
        finally:
            for stream, splitter in splitters.items():
                keep(stream, splitter.end())
        return Finished(exit_code, tuple(tail))

    async def command(
        self, command: str, context: StepContext, *, prefix: str, deadline: timedelta, user: str | None = None
    ) -> None:
        """Run a shell command as a template's author wrote it, or raise GuestFailure in E2B's words."""
        try:
            done = await self.follow(
                ("/bin/bash", "-l", "-c", command),
                prefix=prefix,
                deadline=deadline,
                user=user or context.user,
                envs=context.env,
                cwd=context.workdir,
            )
        except GuestRefused as error:
            raise GuestFailure(f"failed to run command '{command}': {_why(error, deadline)}") from error
        if done.exit_code != 0:
            raise GuestFailure(f"failed to run command '{command}': {_ended(done)}{self._full_disk(done)}")

    async def script(
        self,
        argv: tuple[str, ...],
        *,
        doing: str,
        prefix: str,
        deadline: timedelta,
        envs: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run one of our own scripts as root, or raise GuestFailure that says what it was `doing` and its last line."""
        try:
            done = await self.follow(
                argv, prefix=prefix, deadline=deadline, user="root", envs=envs or {}, cwd="/", level="debug"
            )
        except GuestRefused as error:
            raise GuestFailure(f"{doing} failed: {_why(error, deadline)}") from error
        if done.exit_code != 0:
            last = f": {done.tail[-1]}" if done.tail else ""
            raise GuestFailure(f"{doing} failed: {_ended(done)}{last}{self._full_disk(done)}")
        return done

    def _full_disk(self, done: Finished) -> str:
        if not any(_NO_SPACE in line for line in done.tail):
            return ""
        return f"; the template's disk of {self._build.disk_size_mib} MiB is full"


def _ended(done: Finished) -> str:
    return f"exit status {done.exit_code}"


def _why(error: GuestRefused, deadline: timedelta) -> str:
    if error.code == "deadline_exceeded":
        return f"it did not finish within {deadline.total_seconds():g} s"
    return f"command failed: {error.code}: {error.detail}"
