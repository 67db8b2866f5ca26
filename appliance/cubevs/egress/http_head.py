"""The head of an HTTP/1 request, read strictly: what two parsers could read differently is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn

from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.rules import host_name

MAX_HEAD: Final = 32768
_MAX_FIELDS: Final = 256

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) (HTTP/1\.[01])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_AUTHORITY = re.compile(r"(?P<host>[^:@/?#\[\]]+)(?::(?P<port>[0-9]*))?")
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
    forwarded: bytes
    """The head to send on: of a connection that ends with this request."""


def parse_head(raw: bytes) -> RequestHead:
    """Return the request whose head `raw` is, up to and with the empty line. Raises Refused."""
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
        host=_host(method, target, _values(fields, b"host")),
        body=_framing(version, _values(fields, b"content-length"), _values(fields, b"transfer-encoding")),
        forwarded=_forwarded(lines[0], fields),
    )


def _values(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for field, value in fields if field.lower() == name]


def _host(method: bytes, target: bytes, hosts: list[bytes]) -> str:
    """Return the one host that the request is for, by its target and its Host field alike."""
    if method == b"CONNECT":
        _malformed("asks for a tunnel: connect to the destination itself")
    if not hosts:
        raise Refused(Reason.UNNAMED, "This sandbox may reach domains by name only: send a Host header.")
    if len(hosts) > 1:
        _malformed("has more than one Host")
    host = _authority(hosts[0])
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return host
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() != b"http":
        _malformed("asks for neither a path nor an http:// address")
    if _authority(re.split(rb"[/?#]", rest, maxsplit=1)[0]) != host:
        _malformed("names one host in its address and another in its Host")
    return host


def _authority(text: bytes) -> str:
    match = _AUTHORITY.fullmatch(text.decode("ascii", errors="replace"))
    if match is None or match["port"] not in (None, "", "80"):
        _malformed("names a host that is none of port 80")
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


def _forwarded(request_line: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    nominated = {
        option.strip(b" \t").lower() for value in _values(fields, b"connection") for option in value.split(b",")
    }
    if nominated & _NEVER_NOMINATED:
        _malformed("asks for the removal of a header field that it needs")
    dropped = _HOP_BY_HOP | nominated
    kept = [name + b": " + value for name, value in fields if name.lower() not in dropped]
    return b"\r\n".join((request_line, *kept, b"Connection: close", b"", b""))


def _malformed(what: str) -> NoReturn:
    raise Refused(Reason.MALFORMED, f"This request {what}.")
