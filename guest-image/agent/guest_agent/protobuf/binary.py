"""From proto3's binary form to its JSON form and back.

The services know messages in their JSON form alone: bytes are base64, 64-bit integers and enums are strings, times are
RFC 3339. Reading keeps what fields are present apart from those that are not, and skips fields it does not know;
writing writes every field that the JSON form has.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import UTC, datetime

from guest_agent.envelope import JsonObject
from guest_agent.errors import Code, RpcError
from guest_agent.protobuf.schema import Field, Kind, Message, string

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10
_MASK64 = 2**64 - 1
_VARINT_KINDS = frozenset((Kind.BOOL, Kind.UINT32, Kind.INT64, Kind.SINT32, Kind.ENUM))
_ENTRY = Message((string(1, "key"), string(2, "value")))
_TIMESTAMP = Message((Field(1, "seconds", Kind.INT64), Field(2, "nanos", Kind.INT64)))


def decode(schema: Message, payload: bytes) -> JsonObject:
    """Return the message in its JSON form. Raise RpcError invalid_argument where the bytes are not one."""
    result: JsonObject = {}
    _decode_into(result, schema, payload)
    return result


def _decode_into(result: JsonObject, schema: Message, payload: bytes) -> None:
    for number, wire_type, value in _records(payload):
        field = schema.by_number.get(number)
        if field is None:
            continue
        if wire_type != (_VARINT if field.kind in _VARINT_KINDS else _LENGTH):
            raise _malformed(f"field {number} has wire type {wire_type}")
        if isinstance(value, int):
            result[field.name] = _from_integer(field, value)
        else:
            _take(result, field, value)


def _take(result: JsonObject, field: Field, value: bytes) -> None:
    match field.kind:
        case Kind.STRING_MAP:
            entry = decode(_ENTRY, value)
            result.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", "")
        case Kind.MESSAGE:
            assert field.message is not None
            if field.repeated:
                result.setdefault(field.name, []).append(decode(field.message, value))
            else:
                # A message that comes in two parts is the sum of them.
                _decode_into(result.setdefault(field.name, {}), field.message, value)
        case Kind.BYTES:
            result[field.name] = base64.b64encode(value).decode()
        case Kind.TIMESTAMP:
            result[field.name] = _time_text(decode(_TIMESTAMP, value))
        case _ if field.repeated:
            result.setdefault(field.name, []).append(_text(value))
        case _:
            result[field.name] = _text(value)


def _from_integer(field: Field, value: int) -> object:
    match field.kind:
        case Kind.BOOL:
            return value != 0
        case Kind.UINT32:
            return value & 0xFFFFFFFF
        case Kind.SINT32:
            return (value >> 1) ^ -(value & 1)
        case Kind.ENUM:
            return _name_of(field, value)
        case _:
            return str(value - 2**64 if value >= 2**63 else value)


def _name_of(field: Field, value: int) -> object:
    """Return the enum's name, or the number for one the table lacks, as in JSON."""
    return next((name for name, number in (field.names or {}).items() if number == value), value)


def _records(payload: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield each field's number, wire type and raw value."""
    offset = 0
    while offset < len(payload):
        key, offset = _varint(payload, offset)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            integer, offset = _varint(payload, offset)
            yield number, wire_type, integer
            continue
        if wire_type == _LENGTH:
            length, offset = _varint(payload, offset)
        elif wire_type in _FIXED_BYTES:
            length = _FIXED_BYTES[wire_type]
        else:
            raise _malformed(f"wire type {wire_type}")
        if offset + length > len(payload):
            raise _malformed("the message ends within a field")
        yield number, wire_type, payload[offset : offset + length]
        offset += length


def _varint(payload: bytes, offset: int) -> tuple[int, int]:
    """Return the integer at `offset` and the offset behind it."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if offset + index >= len(payload):
            raise _malformed("the message ends within a number")
        byte = payload[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & _MASK64, offset + index + 1
    raise _malformed("a number is too long")


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise _malformed("a string is not UTF-8") from error


def _malformed(reason: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"invalid protobuf: {reason}")


def encode(schema: Message, document: JsonObject) -> bytes:
    """Return the binary form. Names that the table lacks are a defect of the agent and raise KeyError."""
    return b"".join(
        _encode_field(schema.by_name[name], item)
        for name, value in document.items()
        for item in (value if schema.by_name[name].repeated else (value,))
    )


def _encode_field(field: Field, value: object) -> bytes:
    if field.kind is Kind.STRING_MAP:
        assert isinstance(value, dict)
        entries = ({"key": key, "value": text} for key, text in value.items())
        return b"".join(_prefixed(field, encode(_ENTRY, entry)) for entry in entries)
    if field.kind in _VARINT_KINDS:
        return _write_varint(field.number << 3 | _VARINT) + _write_varint(_to_integer(field, value))
    return _prefixed(field, _to_bytes(field, value))


def _prefixed(field: Field, data: bytes) -> bytes:
    return _write_varint(field.number << 3 | _LENGTH) + _write_varint(len(data)) + data


def _to_bytes(field: Field, value: object) -> bytes:
    match field.kind:
        case Kind.MESSAGE:
            assert field.message is not None
            assert isinstance(value, dict)
            return encode(field.message, value)
        case Kind.BYTES:
            return binascii.a2b_base64(str(value))
        case Kind.TIMESTAMP:
            return encode(_TIMESTAMP, _time_parts(str(value)))
        case _:
            return str(value).encode("utf-8", "replace")


def _to_integer(field: Field, value: object) -> int:
    if field.kind is Kind.ENUM and isinstance(value, str):
        number = (field.names or {})[value]
    else:
        assert isinstance(value, int | str)
        number = int(value)
    return (number << 1) ^ (number >> 31) if field.kind is Kind.SINT32 else number & _MASK64


def _write_varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _time_text(parts: JsonObject) -> str:
    seconds, nanos = int(parts.get("seconds", 0)), int(parts.get("nanos", 0))
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise _malformed("a time lies outside the calendar") from error
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


def _time_parts(text: str) -> JsonObject:
    """Split what `entries.timestamp` wrote: whole seconds, a point, nine digits, Z."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return {"seconds": seconds, "nanos": int(fraction or "0")}
