"""Moves bytes between the two ends of a connection until both have ended, or until nothing moves any more."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from appliance.cubevs.egress.stream import PIECE, Readable, Stream

_LINGER_S: Final = 2.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Idleness:
    """Ends the block with TimeoutError when nothing has been `moved` for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> Idleness:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._timeout.__aexit__(*error)  # type: ignore[arg-type]  # the same three

    def moved(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)


async def pump(data: AsyncIterator[bytes], stream: Stream, *, moved: Callable[[int], None]) -> None:
    """Pass on all of `data`, no faster than `stream` takes it, and then end that direction."""
    async for piece in data:
        stream.write(piece)
        await stream.drain()
        moved(len(piece))
    await stream.end()


async def discard(stream: Readable) -> None:
    """Read until the other side has ended: unread bytes would turn our close into a reset, and lose what we said."""
    while await stream.read(PIECE):
        pass


async def close_in_turn(stream: Stream, reader: StreamReader, writer: StreamWriter) -> None:
    """Let the other side read what was written last, and end after us, for as long as that takes a sane one.

    `stream` is on the connection of the other two, or that itself.
    """
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await stream.end()
            await discard(reader)
    await close(writer)


async def close(writer: StreamWriter) -> None:
    """End the connection once what was written has been sent, or after a while without that."""
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await writer.wait_closed()
    writer.transport.abort()


def reset(writer: StreamWriter) -> None:
    """End the connection at once, so that the other side sees that it was broken off."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
