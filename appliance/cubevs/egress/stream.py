"""A connection as the proxy uses it: the same for TCP and for TLS over it."""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Final, Protocol

PIECE: Final = 32768
"""Bytes read at once, and kept for a side that does not take them: each connection may cost some 256 KiB, no more."""


class Readable(Protocol):
    """As `asyncio.StreamReader` is, with what that raises."""

    async def read(self, n: int = -1, /) -> bytes: ...

    async def readexactly(self, n: int, /) -> bytes: ...

    async def readuntil(self, separator: bytes = b"\n", /) -> bytes: ...


class Stream(Readable, Protocol):
    """Both directions of a connection."""

    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None:
        """Wait until the other side takes more."""
        ...

    async def end(self) -> None:
        """Say that no more comes, once all that was written is on its way."""
        ...


class TcpStream:
    """See `Stream`."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._writer = writer
        self.read = reader.read
        self.readexactly = reader.readexactly
        self.readuntil = reader.readuntil
        self.write = writer.write
        self.drain = writer.drain
        writer.transport.set_write_buffer_limits(PIECE)

    async def end(self) -> None:
        # What is still here goes at its reader's pace too, before anybody closes.
        self._writer.transport.set_write_buffer_limits(0)
        await self.drain()
        self._writer.write_eof()


async def pieces(stream: Readable) -> AsyncIterator[bytes]:
    """Yield all that comes, to the end."""
    while data := await stream.read(PIECE):
        yield data
