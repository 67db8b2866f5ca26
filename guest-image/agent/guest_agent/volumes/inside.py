"""Paths that mean what they say inside of one directory, and nothing outside of it.

Whoever uses a volume may have left any symbolic link in it, also while a path is being resolved: the kernel itself
keeps each step inside (openat2, Linux 5.6).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_OPENAT2 = ctypes.c_long(437)
_NO_XDEV, _NO_MAGICLINKS, _IN_ROOT = 0x01, 0x02, 0x10
_TRIES = 8

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def clean(path: str) -> str:
    """Return `path` from the volume's root, absolute and without dots. Raises ValueError where it cannot be one."""
    if not path or "\0" in path:
        raise ValueError("the path is empty or has a NUL")
    return "/" + os.path.normpath("/" + path).lstrip("/")


def split(path: str) -> tuple[str, str]:
    """Return a clean path's directory and its name there; the root is `.` in itself."""
    directory, _, name = path.rpartition("/")
    return directory or "/", name or "."


def open_inside(root: int, path: str, flags: int) -> int:
    """Return a descriptor of `path`, with `root`, a directory's descriptor, for its `/`. Raises OSError."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS | _NO_XDEV)
    name = os.fsencode(path)
    for _ in range(_TRIES):
        descriptor = _syscall(_OPENAT2, ctypes.c_int(root), name, how, ctypes.c_size_t(len(how)))
        if descriptor >= 0:
            return int(descriptor)
        # Something was renamed meanwhile, and the kernel could not tell whether a `..` stayed inside.
        if (number := ctypes.get_errno()) != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


def open_directory(root: int, path: str) -> int:
    """Return a descriptor of a directory, by which what is in it can be named. Raises OSError."""
    return open_inside(root, path, os.O_RDONLY | os.O_DIRECTORY)
