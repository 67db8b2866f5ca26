"""Starting one program: as a user, in a directory, in a session of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guest_agent.process.credentials import acting_as
from guest_agent.process.oom import dispensable
from guest_agent.users import User

_ALL_SIGNALS = tuple(signal.valid_signals())
"""A program starts with none ignored, whatever the agent was started with. Python ignores SIGPIPE."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start. `cwd` is absolute; `argv[0]` is looked up in the PATH of `env` unless it has a slash."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    user: User


@dataclass(frozen=True, slots=True)
class Stdio:
    """What the program's descriptors 0, 1 and 2 are: a path to open, or a descriptor to copy.

    A terminal is given by path: opening it first makes it the controlling terminal of the new session.
    """

    stdin: str | int
    stdout: int
    stderr: int

    def actions(self) -> list[tuple[int, int, str, int, int] | tuple[int, int, int]]:
        first: tuple[int, int, str, int, int] | tuple[int, int, int]
        if isinstance(self.stdin, str):
            first = (os.POSIX_SPAWN_OPEN, 0, self.stdin, os.O_RDWR, 0)
        else:
            first = (os.POSIX_SPAWN_DUP2, self.stdin, 0)
        return [first, (os.POSIX_SPAWN_DUP2, self.stdout, 1), (os.POSIX_SPAWN_DUP2, self.stderr, 2)]


def spawn(command: Command, stdio: Stdio) -> int:
    """Return the pid of the started program. Raise OSError if it cannot be started.

    Directory and program are looked up with the user's permissions. The working directory belongs to the whole agent,
    which uses absolute paths only and goes back to `/` so as not to hold a file system busy.
    """
    with dispensable(), acting_as(command.user):
        os.chdir(command.cwd)
        try:
            return os.posix_spawn(
                find_program(command.argv[0], command.env.get("PATH", ""), os.access),
                command.argv,
                command.env,
                file_actions=stdio.actions(),
                setsid=True,
                setsigmask=(),
                setsigdef=_ALL_SIGNALS,
            )
        finally:
            os.chdir("/")


def find_program(name: str, path: str, may_access: Callable[[str, int], bool]) -> str:
    """Return what to execute for `name`, or raise FileNotFoundError."""
    if "/" in name:
        return name
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        if may_access(candidate, os.X_OK):
            return candidate
    raise FileNotFoundError(2, "executable file not found in $PATH", name)
