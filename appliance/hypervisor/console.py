"""A guest's console on disk: the latest output, never more than a fixed size, whatever the guest prints.

The VMM offers the console as a socket and drops output nobody reads, so a Cubelet that is away costs log lines and
nothing else. While it is there, a guest that floods its console is slowed down by its own full socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import cast

from appliance.hypervisor import sockets

SEGMENT_BYTES = 256 * 1024
"""The log is at most two segments: `console.log`, and `console.log.1` before it."""

# A UART hands over single bytes. Reading at most this often bounds what a flood costs Cubelet to about 100 wake-ups
# a second, and still takes some 25 KB/s: twice what a real serial line carries.
_READ_INTERVAL_S = 0.01


class ConsoleLog(asyncio.Protocol):
    """Copies one console into its log until the VMM closes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size if path.exists() else 0
        self._transport: asyncio.ReadTransport | None = None
        self._closed = asyncio.Event()

    @classmethod
    async def follow(cls, socket_path: Path, log_path: Path) -> ConsoleLog:
        """Connect to the console at `socket_path` and append what it says to `log_path`; raises OSError."""
        connection = await sockets.connect(socket_path)
        loop = asyncio.get_running_loop()
        try:
            _, log = await loop.create_unix_connection(lambda: cls(log_path), sock=connection)
        except BaseException:
            connection.close()
            raise
        return log

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Every loop's sockets can pause; uvloop's do not derive from the class that says so.
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        # A full disk must not end the console for good.
        with contextlib.suppress(OSError):
            self._write(data[-SEGMENT_BYTES:])
        assert self._transport is not None
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(_READ_INTERVAL_S, self._resume)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    async def drained(self) -> None:
        """Return once everything that was printed is in the log, after the VMM has ended."""
        await self._closed.wait()

    def close(self) -> None:
        """Stop copying. Safe to repeat."""
        if self._transport is not None:
            self._transport.close()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > SEGMENT_BYTES:
            self._path.replace(_previous(self._path))
            self._size = 0
        with self._path.open("ab") as file:
            file.write(data)
        self._size += len(data)


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def tail(path: Path, limit: int = 4000) -> str:
    """Return the last `limit` bytes of a console log as text, by default enough for a panic; empty if absent."""
    data = b""
    for segment in (_previous(path), path):
        with contextlib.suppress(FileNotFoundError):
            data += segment.read_bytes()
    return data[-limit:].decode(errors="replace")


def remove(path: Path) -> None:
    """Delete a console log. Absent logs are success."""
    for segment in (_previous(path), path):
        segment.unlink(missing_ok=True)
