"""Pseudo-terminals."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from dataclasses import dataclass

from guest_agent.users import User

_WINSIZE = struct.Struct("HHHH")


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """In characters."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Terminal:
    """Both ends. `follower` is kept open until the program has opened `path` itself."""

    leader: int
    follower: int
    path: str


def open_terminal(size: TerminalSize, owner: User) -> Terminal:
    """Return a new terminal of `size` that `owner` may open. The caller closes both ends."""
    leader, follower = os.openpty()
    try:
        resize(leader, size)
        os.fchown(follower, owner.uid, -1)
        os.fchmod(follower, 0o620)
        return Terminal(leader, follower, os.ttyname(follower))
    except BaseException:
        os.close(leader)
        os.close(follower)
        raise


def resize(leader: int, size: TerminalSize) -> None:
    """Set the size; the kernel tells the foreground programs by SIGWINCH."""
    rows, columns = min(size.rows, 0xFFFF), min(size.columns, 0xFFFF)
    fcntl.ioctl(leader, termios.TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))
