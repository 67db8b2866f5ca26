"""One connection joined to another, until both directions have ended."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import closing

_PIECE_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
_ORDERLY = struct.pack("ii", 0, 0)


async def relay(client: socket.socket, address: str, port: int) -> bool:
    """Join `client` to the service until both have said all; return whether the service took the connection.

    Owns `client`. What breaks on one side is passed to the other as a reset, never as an orderly end.
    """
    service = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    with closing(client), closing(service):
        for end in (client, service):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Whatever way this function is left, but for the orderly one, closing resets.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        try:
            await asyncio.get_running_loop().sock_connect(service, (address, port))
        except OSError:
            return False
        if await _exchange(client, service):
            for end in (client, service):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY)
        return True


async def _exchange(client: socket.socket, service: socket.socket) -> bool:
    """Return whether both directions came to their end."""
    orderly = True
    try:
        async with asyncio.TaskGroup() as directions:
            directions.create_task(_pump(client, service))
            directions.create_task(_pump(service, client))
    except* OSError:
        orderly = False
    return orderly


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _PIECE_BYTES):
        await loop.sock_sendall(sink, data)
    sink.shutdown(socket.SHUT_WR)
