"""TLS over a connection of which something may have been read already."""

from __future__ import annotations

import ssl
from asyncio import IncompleteReadError, LimitOverrunError
from contextlib import suppress
from typing import Final

from appliance.cubevs.egress.stream import PIECE, Stream

_LIMIT: Final = 32768


class TlsStream:
    """See `stream.Stream`. Between `handshake` and `end`, reading and writing may go on at the same time.

    asyncio's own TLS takes a connection before its first byte only.
    """

    def __init__(
        self, below: Stream, context: ssl.SSLContext, *, server_hostname: str | None = None, received: bytes = b""
    ) -> None:
        """Be the server, where there is no `server_hostname`. `received` is what was read from `below` before."""
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(received)
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._read = bytearray()
        self._ended = False
        self._cut = False
        self._source: TlsStream | None = None

    def passes_on(self, source: TlsStream) -> None:
        """End as `source` did, which all that is written comes from: what was cut short there must not look whole."""
        self._source = source

    async def handshake(self) -> None:
        """Raises ssl.SSLError, and OSError where the other side is gone."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.drain()
                await self._receive()
            except ssl.SSLError:
                with suppress(OSError):  # that there is an alert to read is a courtesy
                    await self.drain()
                raise
            else:
                await self.drain()
                return

    async def read(self, n: int = -1, /) -> bytes:
        if n < 0:
            while await self._more():
                pass
            return self._take(len(self._read))
        if n and not self._read:
            await self._more()
        return self._take(n)

    async def readexactly(self, n: int, /) -> bytes:
        while len(self._read) < n:
            if not await self._more():
                raise IncompleteReadError(self._take(n), n)
        return self._take(n)

    async def readuntil(self, separator: bytes = b"\n", /) -> bytes:
        while (at := self._read.find(separator)) < 0:
            if len(self._read) > _LIMIT:
                raise LimitOverrunError("too much before the separator", len(self._read))
            if not await self._more():
                raise IncompleteReadError(self._take(len(self._read)), None)
        if at > _LIMIT:
            raise LimitOverrunError("too much before the separator", at)
        return self._take(at + len(separator))

    def write(self, data: bytes, /) -> None:
        self._tls.write(data)
        self._below.write(self._outgoing.read())

    async def drain(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())
        await self._below.drain()

    async def end(self) -> None:
        if self._source is None or not self._source._cut:
            with suppress(
                ssl.SSLError
            ):  # it says that it is the first to end, or that the other side has ended already
                self._tls.unwrap()
        await self.drain()
        await self._below.end()

    def _take(self, n: int) -> bytes:
        taken = bytes(self._read[:n])
        del self._read[:n]
        return taken

    async def _more(self) -> bool:
        """Read on. False at the end, whether the other side said so or not, as many servers do not."""
        while not self._ended:
            try:
                data = self._tls.read(PIECE)
            except ssl.SSLWantReadError:
                # TLS may have something to say itself. Else reading must not wait for the other side to read.
                if self._outgoing.pending:
                    await self.drain()
                await self._receive()
            except ssl.SSLError as error:
                # Of OpenSSL 3, Python has it as an SSLEOFError from some release on only.
                self._cut = isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"
                self._ended = self._cut or isinstance(error, ssl.SSLZeroReturnError)
                if not self._ended:
                    raise
            else:
                self._ended = not data
                self._read += data
                return not self._ended
        return False

    async def _receive(self) -> None:
        if data := await self._below.read(PIECE):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
