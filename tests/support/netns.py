"""Network namespaces for tests: all their addresses and traffic live and die with them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkNamespace:
    """A named namespace, so that `ip netns exec` helps when a test fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = Path("/run/netns") / name

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run this thread, and the threads and processes it starts, inside."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def run(self, *argv: str) -> str:
        """Run a command inside and return what it prints."""
        command = ("ip", "netns", "exec", self.name, *argv)
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def ip(self, arguments: str) -> None:
        """Run `ip <arguments>` inside."""
        subprocess.run(("ip", "-n", self.name, *arguments.split()), check=True, capture_output=True, timeout=30)


@contextmanager
def network_namespace(role: str) -> Iterator[NetworkNamespace]:
    """Make a namespace with its loopback up, and remove it with all that is in it."""
    name = f"cube-test-{os.getpid()}-{role}"
    subprocess.run(("ip", "netns", "add", name), check=True, capture_output=True, timeout=30)
    try:
        namespace = NetworkNamespace(name)
        namespace.ip("link set lo up")
        yield namespace
    finally:
        subprocess.run(("ip", "netns", "del", name), check=True, capture_output=True, timeout=30)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
