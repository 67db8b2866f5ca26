"""The Connect protocol's messages on the wire: the JSON form, and the envelopes around messages in streams.

An envelope is a byte of flags, four of length, most significant first, and the message.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

from guest_agent.errors import Code, RpcError

JsonObject = dict[str, Any]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_HEADER = struct.Struct(">BI")
_COMPRESSED = 0x01
_END_STREAM = 0x02
_to_text = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def encode(message: JsonObject) -> bytes:
    """Return the JSON. What is not Unicode in it, as a file's name may be, becomes question marks."""
    return _to_text(message).encode("utf-8", "replace")


def envelope(payload: bytes, flags: int = 0) -> bytes:
    return _HEADER.pack(flags, len(payload)) + payload


def end_of_stream(error: RpcError | None) -> bytes:
    """Return the last envelope, JSON in either codec. A stream that failed says so here: its status was 200."""
    return envelope(encode({} if error is None else {"error": error_body(error)}), _END_STREAM)


def error_body(error: RpcError) -> JsonObject:
    return {"code": error.code.value, "message": error.message}


async def read_envelopes(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the messages, not yet decoded, of a request body that arrives in any pieces."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while (message := take_message(buffer)) is not None:
            yield message
    if buffer:
        raise RpcError(Code.INVALID_ARGUMENT, "the request ends within a message")


def take_message(buffer: bytearray) -> bytes | None:
    """Remove the first message from `buffer` and return it, or None while it is not there in full."""
    if len(buffer) < _HEADER.size:
        return None
    flags, length = _HEADER.unpack_from(buffer)
    if length > MAX_MESSAGE_BYTES:
        raise RpcError(Code.RESOURCE_EXHAUSTED, f"message of {length} bytes is too large")
    end = _HEADER.size + length
    if len(buffer) < end:
        return None
    payload = bytes(buffer[_HEADER.size : end])
    del buffer[:end]
    return inflate(payload) if flags & _COMPRESSED else payload


def decode(payload: bytes) -> JsonObject:
    """Parse one message; an empty body is an empty message."""
    try:
        message = json.loads(payload or b"{}")
    except (ValueError, RecursionError) as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"invalid JSON: {error}") from error
    if not isinstance(message, dict):
        raise RpcError(Code.INVALID_ARGUMENT, "the message is not an object")
    return message


def inflate(payload: bytes) -> bytes:
    """Unpack gzip, up to the largest message."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(payload, MAX_MESSAGE_BYTES)
    except zlib.error as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"invalid gzip: {error}") from error
    if inflater.unconsumed_tail:
        raise RpcError(Code.RESOURCE_EXHAUSTED, "the compressed message is too large")
    return data
