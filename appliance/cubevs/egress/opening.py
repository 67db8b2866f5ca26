"""What a guest says first, kept as it came: whatever it turns out to be, it can still be passed on unchanged."""

from __future__ import annotations

from asyncio import IncompleteReadError

from appliance.cubevs.egress.stream import Stream


class Opening:
    """A `Stream` that keeps what is read from it until that is `settled`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._kept: bytearray | None = bytearray()
        self.write = stream.write
        self.drain = stream.drain
        self.end = stream.end

    def settled(self) -> bytes:
        """Return all that was read so far, and keep no more."""
        kept, self._kept = self._kept, None
        return bytes(kept or b"")

    async def read(self, n: int = -1, /) -> bytes:
        return self._keep(await self._stream.read(n))

    async def readexactly(self, n: int, /) -> bytes:
        try:
            return self._keep(await self._stream.readexactly(n))
        except IncompleteReadError as error:
            self._keep(error.partial)
            raise

    async def readuntil(self, separator: bytes = b"\n", /) -> bytes:
        try:
            return self._keep(await self._stream.readuntil(separator))
        except IncompleteReadError as error:
            self._keep(error.partial)
            raise

    def _keep(self, data: bytes) -> bytes:
        if self._kept is not None:
            self._kept += data
        return data
