"""Reading the fields of a message in its JSON form, which come from a client and may be anything."""

from __future__ import annotations

from guest_agent.envelope import JsonObject
from guest_agent.errors import Code, RpcError


def field(message: JsonObject, name: str) -> object:
    """Return a field by its proto name, written camelCase or as it is; None where absent."""
    head, *tail = name.split("_")
    camel = head + "".join(part.capitalize() for part in tail)
    return message.get(camel, message.get(name))


def object_field(message: JsonObject, name: str) -> JsonObject | None:
    value = field(message, name)
    if value is not None and not isinstance(value, dict):
        raise invalid_field(name)
    return value


def string_field(message: JsonObject, name: str) -> str | None:
    value = field(message, name)
    if value is not None and not isinstance(value, str):
        raise invalid_field(name)
    return value


def uint32_field(message: JsonObject, name: str) -> int | None:
    """Return a field that JSON writes as a number or as a string; None where absent."""
    value = field(message, name)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32):
        raise invalid_field(name)
    return value


def invalid_field(name: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"invalid value of field '{name}'")
