"""Unix sockets between Cubelet and a VMM.

Cubelet binds and listens, and the VMM inherits the descriptor: connecting succeeds at once, without waiting for the
VMM to come up, and the path can be connected to again by a later Cubelet. A Unix socket's address has room for 107
bytes; going through a descriptor of the directory keeps it short, however long the path is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _short(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path) -> socket.socket:
    """Return a socket listening at `path`, which must not exist, connectable by this process's user only."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as address:
            listener.bind(address)
        # Between bind and listen nobody can connect, so the mode is right before it matters.
        path.chmod(0o600)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


async def connect(path: Path) -> socket.socket:
    """Return a non-blocking socket connected to `path`, or raise OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        with _short(path) as address:
            await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection
