"""What a message consists of, as far as the E2B protocol needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property


class Kind(Enum):
    """Type of a field's value."""

    STRING = auto()
    BYTES = auto()
    BOOL = auto()
    UINT32 = auto()
    INT64 = auto()
    SINT32 = auto()
    ENUM = auto()
    MESSAGE = auto()
    STRING_MAP = auto()
    """map<string, string>."""
    TIMESTAMP = auto()
    """google.protobuf.Timestamp."""


@dataclass(frozen=True)
class Field:
    """`name` is the JSON one. Only strings and messages are `repeated` in this protocol, so nothing is ever packed."""

    number: int
    name: str
    kind: Kind
    message: Message | None = None
    """Type of a MESSAGE."""
    names: Mapping[str, int] | None = None
    """Numbers of an ENUM's names."""
    repeated: bool = False


@dataclass(frozen=True)
class Message:
    """A message type. A oneof needs no more than its fields: on the wire it is not seen."""

    fields: tuple[Field, ...] = ()

    @cached_property
    def by_number(self) -> Mapping[int, Field]:
        return {field.number: field for field in self.fields}

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}


@dataclass(frozen=True)
class Rpc:
    """Both messages of a call."""

    request: Message
    response: Message


def string(number: int, name: str, *, repeated: bool = False) -> Field:
    return Field(number, name, Kind.STRING, repeated=repeated)


def uint32(number: int, name: str) -> Field:
    return Field(number, name, Kind.UINT32)


def boolean(number: int, name: str) -> Field:
    return Field(number, name, Kind.BOOL)


def binary(number: int, name: str) -> Field:
    return Field(number, name, Kind.BYTES)


def enum(number: int, name: str, names: Mapping[str, int]) -> Field:
    return Field(number, name, Kind.ENUM, names=names)


def message(number: int, name: str, of: Message, *, repeated: bool = False) -> Field:
    return Field(number, name, Kind.MESSAGE, of, repeated=repeated)


EMPTY = Message()
