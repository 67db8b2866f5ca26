"""The body of an HTTP/1 request, passed on to its last byte and not beyond."""

from __future__ import annotations

import re
from asyncio import IncompleteReadError, LimitOverrunError
from collections.abc import AsyncIterator
from typing import Final

from appliance.cubevs.egress.http_head import Framing
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.stream import PIECE, Readable

_MAX_TRAILERS: Final = 64
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")


async def read_body(stream: Readable, framing: int | Framing) -> AsyncIterator[bytes]:
    """Yield the body as it is to be sent on. Raises Refused where it ends early, or where its end is in doubt."""
    try:
        if framing is Framing.CHUNKED:
            async for piece in _read_chunks(stream):
                yield piece
        else:
            async for piece in _read_exactly(stream, framing):
                yield piece
    except (IncompleteReadError, LimitOverrunError) as error:
        raise Refused(Reason.MALFORMED, "The request ends within its body.") from error


async def _read_exactly(stream: Readable, size: int) -> AsyncIterator[bytes]:
    left = size
    while left:
        piece = await stream.read(min(left, PIECE))
        if not piece:
            raise IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


async def _read_chunks(stream: Readable) -> AsyncIterator[bytes]:
    """Yield chunks written anew: what a sender may add to them, extensions and trailers, is left out."""
    while True:
        line = _CHUNK.fullmatch(await stream.readuntil(b"\r\n"))
        if line is None:
            raise Refused(Reason.MALFORMED, "The request has a chunk without a length.")
        size = int(line[1], 16)
        if size == 0:
            break
        yield b"%x\r\n" % size
        async for piece in _read_exactly(stream, size):
            yield piece
        if await stream.readexactly(2) != b"\r\n":
            raise Refused(Reason.MALFORMED, "The request has a chunk that is longer than its length.")
        yield b"\r\n"
    for _ in range(_MAX_TRAILERS):
        if await stream.readuntil(b"\r\n") == b"\r\n":
            yield b"0\r\n\r\n"
            return
    raise Refused(Reason.MALFORMED, "The request has too many trailers.")
