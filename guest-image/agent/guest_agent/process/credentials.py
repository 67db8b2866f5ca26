"""Being another user for the length of one spawn.

The C library's setuid functions change every thread of a process. The system calls behind them change only the calling
thread, and a child inherits the thread that made it. So the agent takes on a user, spawns, and is root again, and the
spawn itself may share memory with the agent (vfork) where `subprocess` with `user=` must copy its page tables (fork).

The saved uid stays 0 in between, which is what lets the thread return; exec overwrites it in the child, so a program
never has a way back to root.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from guest_agent.users import User

_SYSCALLS = {
    "x86_64": {"setgroups": 116, "setresuid": 117, "setresgid": 119},
    "aarch64": {"setgroups": 159, "setresuid": 147, "setresgid": 149},
}[platform.machine()]
_SETGROUPS = ctypes.c_long(_SYSCALLS["setgroups"])
_SETRESUID = ctypes.c_long(_SYSCALLS["setresuid"])
_SETRESGID = ctypes.c_long(_SYSCALLS["setresgid"])

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Run the block with the user's credentials, on this thread only. Must be called as root; must not await."""
    own_groups = os.getgroups()
    try:
        _set_groups(user.groups)
        _set_gid(user.gid)
        _set_uid(user.uid)
        yield
    finally:
        _set_uid(0)
        _set_gid(0)
        _set_groups(own_groups)


def _set_groups(groups: tuple[int, ...] | list[int]) -> None:
    array = struct.pack(f"{len(groups)}I", *groups)
    _check(_syscall(_SETGROUPS, ctypes.c_size_t(len(groups)), array), "setgroups")


def _set_gid(gid: int) -> None:
    _check(_syscall(_SETRESGID, ctypes.c_uint32(gid), ctypes.c_uint32(gid), ctypes.c_uint32(0)), "setresgid")


def _set_uid(uid: int) -> None:
    _check(_syscall(_SETRESUID, ctypes.c_uint32(uid), ctypes.c_uint32(uid), ctypes.c_uint32(0)), "setresuid")


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", threading.current_thread().name)
