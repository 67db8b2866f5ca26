"""A network namespace in which there is nothing but what this process listens on."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LonelyNetwork:
    """It lasts as long as it is open or something runs in it."""

    descriptor: int
    listeners: tuple[socket.socket, ...]
    """One for each address asked for, in their order; not blocking."""

    @property
    def entered_by(self) -> tuple[str, ...]:
        """How an argv begins whose program runs inside. Only root may enter."""
        return ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self.descriptor}")


def make_lonely_network(addresses: Sequence[Address], stack: ExitStack) -> LonelyNetwork:
    """Make a namespace that listens on addresses of its loopback, and let `stack` close all of it. Blocks; needs root.

    Raises OSError, with what was made left to `stack`.
    """
    # A namespace is its thread's: one that ends, and does not go back into a pool for others to meet.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_make, addresses, stack).result()


def _make(addresses: Sequence[Address], stack: ExitStack) -> LonelyNetwork:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    listeners = []
    for address in addresses:
        listener = stack.enter_context(socket.socket())
        listener.setblocking(False)
        listener.bind(address)
        listener.listen()
        listeners.append(listener)
    return LonelyNetwork(descriptor, tuple(listeners))
