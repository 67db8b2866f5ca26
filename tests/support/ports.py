"""Ports for servers that tests start."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator

# Below the range that the kernel gives to outgoing connections (ip_local_port_range): a port that is free now is not
# taken by a connection of something else before its server binds it.
_FIRST, _LAST = 20000, 32000


def _candidates() -> Iterator[int]:
    # A random beginning keeps test runs beside each other apart; a port is not given twice in one round.
    port = random.randrange(_FIRST, _LAST)
    while True:
        yield port
        port = port + 1 if port < _LAST else _FIRST


_next = _candidates()


def free_port() -> int:
    """Return a TCP port that nothing on this host listens on, at any address."""
    for port in _next:
        with socket.socket() as probe:
            # As servers bind: a connection in TIME_WAIT does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise AssertionError("there is always a next port")
