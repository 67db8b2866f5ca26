"""The server name that a TLS client asks for, read from its first flight without answering it.

The bytes come from a guest and are hostile: every length is checked against what encloses it, and what a client has no
reason to send is refused rather than understood.
"""

from __future__ import annotations

from asyncio import IncompleteReadError
from dataclasses import dataclass
from typing import Final, NoReturn

from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.rules import host_name
from appliance.cubevs.egress.stream import Readable

MAX_HELLO: Final = 16384
"""Bytes of the message. Clients send under 2 KiB, with post-quantum key shares and a ticket included."""
MAX_FLIGHT: Final = 2 * MAX_HELLO
"""Bytes of the records that carry it: each may hold as little as one byte."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D
_MAX_RECORD: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class ClientHello:
    server_name: str
    """As `host_name` returns it."""
    flight: bytes
    """Every byte read, to be sent on unchanged."""


async def read_client_hello(stream: Readable, *, allow_ech: bool) -> ClientHello:
    """Read exactly the records that hold the ClientHello. Raises Refused."""
    flight, message = bytearray(), bytearray()
    try:
        while True:
            header = await stream.readexactly(5)
            length = int.from_bytes(header[3:5], "big")
            if header[0] != _HANDSHAKE or header[1] != 3 or not 1 <= length <= _MAX_RECORD:
                _malformed("does not begin as TLS does")
            if len(flight) + 5 + length > MAX_FLIGHT:
                _malformed("begins with too long a ClientHello")
            record = await stream.readexactly(length)
            flight += header + record
            message += record
            if message[0] != _CLIENT_HELLO:
                _malformed("does not begin with a ClientHello")
            if len(message) < 4:
                continue
            size = 4 + int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO or len(message) > size:
                _malformed("begins with a ClientHello of a wrong length")
            if len(message) == size:
                return ClientHello(server_name(bytes(message), allow_ech=allow_ech), bytes(flight))
    except IncompleteReadError:
        _malformed("ends within its ClientHello")


def server_name(message: bytes, *, allow_ech: bool) -> str:
    """Return the name in a whole ClientHello message. Raises Refused."""
    body = _Reader(message[4:])
    body.skip(2 + 32)  # version, random
    body.nested(1)  # session id
    body.nested(2)  # cipher suites
    body.nested(1)  # compression methods
    extensions: dict[int, _Reader] = {}
    rest = body.nested(2) if body else _Reader(b"")
    if body:
        _malformed("has bytes behind its extensions")
    while rest:
        kind = rest.number(2)
        if kind in extensions:
            _malformed("has an extension twice")
        extensions[kind] = rest.nested(2)
    if _ENCRYPTED_CLIENT_HELLO in extensions and not allow_ech:
        raise Refused(
            Reason.HIDDEN_NAME,
            "This sandbox may reach domains by name only, and an encrypted ClientHello hides it: switch ECH off.",
        )
    if _SERVER_NAME not in extensions:
        raise Refused(Reason.UNNAMED, "This sandbox may reach domains by name only: send a server name (SNI).")
    return _host_name_of(extensions[_SERVER_NAME])


def _host_name_of(extension: _Reader) -> str:
    names = extension.nested(2)
    kind = names.number(1)
    name = names.nested(2)
    if extension or names or kind != _HOST_NAME:
        _malformed("has more than one server name")
    found = host_name(name.rest().decode("ascii", errors="replace"))
    if found is None:
        raise Refused(Reason.UNNAMED, "The server name (SNI) is no domain name.")
    return found


class _Reader:
    """Takes bytes off the front. False once nothing is left; asking for more than that is Refused."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def _take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            _malformed("has a length that goes past its end")
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def skip(self, size: int) -> None:
        self._take(size)

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def nested(self, prefix: int) -> _Reader:
        """Return what a length of `prefix` bytes announces."""
        return _Reader(self._take(self.number(prefix)))

    def rest(self) -> bytes:
        return self._take(len(self._data) - self._at)


def _malformed(what: str) -> NoReturn:
    raise Refused(Reason.MALFORMED, f"This connection to port 443 {what}.")
