"""The two forms of a message on the wire, chosen by a request's Content-Type: JSON, and binary protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from guest_agent import envelope
from guest_agent.envelope import JsonObject
from guest_agent.protobuf import binary
from guest_agent.protobuf.schema import Message


class Codec(Protocol):
    """Reads and writes messages of a type; inside the agent they are in their JSON form."""

    @property
    def name(self) -> str: ...

    def decode(self, schema: Message, payload: bytes) -> JsonObject: ...

    def encode(self, schema: Message, message: JsonObject) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Json:
    """What the SDKs speak. JSON says itself what it holds, so it needs no table."""

    name: str = "json"

    def decode(self, _schema: Message, payload: bytes) -> JsonObject:
        return envelope.decode(payload)

    def encode(self, _schema: Message, message: JsonObject) -> bytes:
        return envelope.encode(message)


@dataclass(frozen=True, slots=True)
class Binary:
    """What clients in Go speak."""

    name: str = "proto"

    def decode(self, schema: Message, payload: bytes) -> JsonObject:
        return binary.decode(schema, payload)

    def encode(self, schema: Message, message: JsonObject) -> bytes:
        return binary.encode(schema, message)


_CODECS: tuple[Codec, ...] = (Json(), Binary())
UNARY_PREFIX = "application/"
STREAM_PREFIX = "application/connect+"


def find_codec(content_type: str, prefix: str) -> Codec | None:
    """Return the codec a Content-Type names behind `prefix`, or None where it names no such."""
    kind = content_type.partition(";")[0].strip().lower()
    return next((codec for codec in _CODECS if kind == prefix + codec.name), None)


def accepted(prefix: str) -> str:
    """Return the media types of a kind of call, for Accept-Post."""
    return ", ".join(prefix + codec.name for codec in _CODECS)
