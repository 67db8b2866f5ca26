"""The head of an HTTP/1 request, read strictly: what two parsers could read differently is refused."""

from __future__ import annotations

import re
from asyncio import IncompleteReadError, LimitOverrunError
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn

from appliance.cubevs.egress.injection import Fields
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.rules import host_name
from appliance.cubevs.egress.stream import Readable

MAX_HEAD: Final = 32768
_MAX_FIELDS: Final = 256

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} ?")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) (HTTP/1\.[01])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_AUTHORITY = re.compile(r"(?P<host>[^:@/?#\[\]]+)(?::(?P<port>[0-9]*))?")
_SCHEMES: Final = {80: b"http", 443: b"https"}
_LENGTH = re.compile(rb"[0-9]{1,18}")
# Of one hop only. `Upgrade` would make something of the connection that is no HTTP any more.
_HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"te", b"trailer"})
_NEVER_NOMINATED: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})


class Framing(Enum):
    """How the end of a body of unknown length is told."""

    CHUNKED = "chunked"


@dataclass(frozen=True, slots=True)
class RequestHead:
    host: str
    """As `host_name` returns it."""
    body: int | Framing
    """Length of the body in bytes."""
    asks_for_websocket: bool
    line: bytes
    fields: Fields
    """Those that are sent on."""

    def forwarded(self, added: Fields = (), *, websocket: bool = False) -> bytes:
        """Return the head to send on, with `added` in the place of all fields of the same names.

        The connection ends with this request or, with `websocket`, becomes one.
        """
        replaced = {_as_variable(name) for name, _ in added}
        kept = [field for field in self.fields if _as_variable(field[0]) not in replaced]
        own = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")) if websocket else ((b"Connection", b"close"),)
        fields = [name + b": " + value for name, value in (*kept, *added, *own)]
        return b"\r\n".join((self.line, *fields, b"", b""))


async def read_head(stream: Readable) -> bytes:
    """Return the head of a request, up to and with the empty line, and read no more. Raises Refused.

    What does not begin as a request is refused at once: a client of another protocol may wait for an answer to it.
    """
    head = bytearray()
    try:
        while not head.endswith(b" "):
            head += await stream.readexactly(1)
            if not _METHOD.fullmatch(head):
                _malformed("does not begin with a request of HTTP/1.0 or HTTP/1.1")
        head += await stream.readuntil(b"\r\n")
        if not _REQUEST_LINE.fullmatch(head, 0, len(head) - 2):
            _malformed("does not begin with a request of HTTP/1.0 or HTTP/1.1")
        while (line := await stream.readuntil(b"\r\n")) != b"\r\n":
            head += line
            if len(head) > MAX_HEAD:
                _malformed("has too long a head")
    except (IncompleteReadError, LimitOverrunError) as error:
        raise Refused(Reason.MALFORMED, "The head of the request has no end, or is too long.") from error
    return bytes(head + line)


def parse_head(raw: bytes, *, port: int = 80) -> RequestHead:
    """Return the request whose head `raw` is, up to and with the empty line. Raises Refused.

    `port` is the one that the guest connected to: 80, or 443 where the request came by TLS.
    """
    lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(lines) > _MAX_FIELDS + 1:
        _malformed("has too many header fields")
    request = _REQUEST_LINE.fullmatch(lines[0])
    if request is None:
        _malformed("does not begin with a request of HTTP/1.0 or HTTP/1.1")
    fields = []
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        if field is None:
            _malformed("has a line that is no header field")
        fields.append((field[1], field[2].strip(b" \t")))
    method, target, version = request.groups()
    return RequestHead(
        host=_host(method, target, _values(fields, b"host"), port),
        body=(body := _framing(version, _values(fields, b"content-length"), _values(fields, b"transfer-encoding"))),
        asks_for_websocket=(method, version, body) == (b"GET", b"HTTP/1.1", 0) and _asks_for_websocket(fields),
        line=lines[0],
        fields=_forwarded(fields),
    )


def _as_variable(name: bytes) -> bytes:
    """Return what a server that makes variables of header fields, as CGI and WSGI do, tells a field by."""
    return name.lower().replace(b"_", b"-")


def _values(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for field, value in fields if field.lower() == name]


def _host(method: bytes, target: bytes, hosts: list[bytes], port: int) -> str:
    """Return the one host that the request is for, by its target and its Host field alike."""
    if method == b"CONNECT":
        _malformed("asks for a tunnel: connect to the destination itself")
    if not hosts:
        raise Refused(Reason.UNNAMED, "This sandbox may reach domains by name only: send a Host header.")
    if len(hosts) > 1:
        _malformed("has more than one Host")
    host = _authority(hosts[0], port)
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return host
    scheme, separator, rest = target.partition(b"://")
    expected = _SCHEMES[port]
    if not separator or scheme.lower() != expected:
        _malformed(f"asks for neither a path nor an {expected.decode()}:// address")
    if _authority(re.split(rb"[/?#]", rest, maxsplit=1)[0], port) != host:
        _malformed("names one host in its address and another in its Host")
    return host


def _authority(text: bytes, port: int) -> str:
    match = _AUTHORITY.fullmatch(text.decode("ascii", errors="replace"))
    if match is None or match["port"] not in (None, "", str(port)):
        _malformed(f"names a host that is none of port {port}")
    host = host_name(match["host"])
    if host is None:
        raise Refused(Reason.UNNAMED, "The Host is no domain name, and its address is not allowed.")
    return host


def _framing(version: bytes, lengths: list[bytes], encodings: list[bytes]) -> int | Framing:
    if encodings:
        if lengths or version != b"HTTP/1.1" or [value.lower() for value in encodings] != [b"chunked"]:
            _malformed("does not say for certain where its body ends")
        return Framing.CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        _malformed("does not say for certain where its body ends")
    return int(lengths[0])


def _forwarded(fields: list[tuple[bytes, bytes]]) -> Fields:
    nominated = _options(fields, b"connection")
    if nominated & _NEVER_NOMINATED:
        _malformed("asks for the removal of a header field that it needs")
    dropped = _HOP_BY_HOP | nominated
    return tuple(field for field in fields if field[0].lower() not in dropped)


def _asks_for_websocket(fields: list[tuple[bytes, bytes]]) -> bool:
    return _options(fields, b"upgrade") == {b"websocket"} and b"upgrade" in _options(fields, b"connection")


def _options(fields: list[tuple[bytes, bytes]], name: bytes) -> set[bytes]:
    return {option.strip(b" \t").lower() for value in _values(fields, name) for option in value.split(b",")}


def _malformed(what: str) -> NoReturn:
    raise Refused(Reason.MALFORMED, f"This request {what}.")
