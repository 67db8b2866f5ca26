"""Jupyter's messages on the wire: https://jupyter-client.readthedocs.io/en/stable/messaging.html"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from uuid import uuid4

_DELIMITER = b"<IDS|MSG>"
_PROTOCOL_VERSION = "5.3"


class BadMessage(Exception):
    """The frames are no message, or not signed with the key of the connection."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What the connection file says: where the sockets are and which key signs messages."""

    transport: str
    ip: str
    ports: Mapping[str, int]  # by channel: shell, iopub, stdin, control, hb
    key: bytes

    @classmethod
    def from_file(cls, content: Mapping[str, Any]) -> Self:
        channels = ("shell", "iopub", "stdin", "control", "hb")
        return cls(
            transport=content["transport"],
            ip=content["ip"],
            ports={channel: int(content[f"{channel}_port"]) for channel in channels},
            key=str(content["key"]).encode(),
        )

    def address(self, channel: str) -> str:
        separator = "-" if self.transport == "ipc" else ":"
        return f"{self.transport}://{self.ip}{separator}{self.ports[channel]}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `identities` say whom an answer to it is for."""

    header: Mapping[str, Any]
    content: Mapping[str, Any]
    parent_header: Mapping[str, Any] = field(default_factory=dict)
    identities: Sequence[bytes] = ()

    @property
    def type(self) -> str:
        return str(self.header["msg_type"])

    def answer(self, message_type: str, content: Mapping[str, Any]) -> "Message":
        """Return a message that this one gave rise to."""
        header = {
            "msg_id": uuid4().hex,
            "msg_type": message_type,
            "username": "kernel",
            "session": self.header.get("session", ""),
            "date": datetime.now(UTC).isoformat(),
            "version": _PROTOCOL_VERSION,
        }
        return Message(header, content, parent_header=self.header, identities=self.identities)


def pack(message: Message, key: bytes) -> list[bytes]:
    """Return the frames of a message, signed."""
    parts = [
        json.dumps(part, ensure_ascii=False).encode("utf-8", "replace")
        for part in (message.header, message.parent_header, {}, message.content)
    ]
    return [*message.identities, _DELIMITER, _signature(parts, key), *parts]


def unpack(frames: Sequence[bytes], key: bytes) -> Message:
    """Return the message that frames make up. Raises `BadMessage`."""
    try:
        start = list(frames).index(_DELIMITER)
        signature, *parts = frames[start + 1 : start + 6]
        if not hmac.compare_digest(signature, _signature(parts, key)):
            raise BadMessage("wrong signature")
        header, parent_header, _, content = (json.loads(part) for part in parts)
    except ValueError as error:
        raise BadMessage("not a message") from error
    return Message(header, content, parent_header, identities=tuple(frames[:start]))


def _signature(parts: Sequence[bytes], key: bytes) -> bytes:
    """Return the signature; an empty key means that messages are not signed."""
    if not key:
        return b""
    return hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
