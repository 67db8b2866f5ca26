"""The two protocols in which a guest may name what it wants: how the name is read, and how a refusal is said."""

from __future__ import annotations

from asyncio import IncompleteReadError, LimitOverrunError, StreamReader
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from appliance.cubevs.base import PROXY_HTTP_PORT, PROXY_TLS_PORT
from appliance.cubevs.egress.client_hello import read_client_hello
from appliance.cubevs.egress.flow import PIECE
from appliance.cubevs.egress.http_body import read_body
from appliance.cubevs.egress.http_head import parse_head
from appliance.cubevs.egress.refusals import Reason, Refused


@dataclass(frozen=True, slots=True)
class Request:
    """What the guest wants: a name, and the bytes for it."""

    name: str
    sent: AsyncIterator[bytes]
    """All that may be passed on of what the guest says. Raises Refused where the rest is in doubt."""


class GuestProtocol(Protocol):
    label: str
    """For metrics and logs."""
    listen_port: int
    upstream_port: int
    one_request: bool
    """Does the connection end with the answer to its first request?"""

    async def read(self, stream: StreamReader) -> Request:
        """Read until it is known what the guest wants. Raises Refused."""
        ...

    def refusal(self, refused: Refused) -> bytes:
        """Return how this protocol says no."""
        ...


class Tls:
    label = "tls"
    listen_port = PROXY_TLS_PORT
    upstream_port = 443
    one_request = False

    def __init__(self, *, allow_ech: bool) -> None:
        self._allow_ech = allow_ech

    async def read(self, stream: StreamReader) -> Request:
        hello = await read_client_hello(stream, allow_ech=self._allow_ech)

        async def sent() -> AsyncIterator[bytes]:
            yield hello.flight
            while data := await stream.read(PIECE):
                yield data

        return Request(hello.server_name, sent())

    def refusal(self, refused: Refused) -> bytes:
        """Return a fatal alert, which every client turns into an error of its own words."""
        decode_error, access_denied, internal_error = 50, 49, 80
        alert = {
            Reason.MALFORMED: decode_error,
            Reason.UNRESOLVED: internal_error,
            Reason.UPSTREAM: internal_error,
        }.get(refused.reason, access_denied)
        return bytes((21, 3, 3, 0, 2, 2, alert))


class Http:
    label = "http"
    listen_port = PROXY_HTTP_PORT
    upstream_port = 80
    one_request = True

    async def read(self, stream: StreamReader) -> Request:
        """Read one request: the connection ends with it, so that none that follows goes unread."""
        try:
            head = parse_head(await stream.readuntil(b"\r\n\r\n"))
        except (IncompleteReadError, LimitOverrunError) as error:
            raise Refused(Reason.MALFORMED, "The head of the request has no end, or is too long.") from error

        async def sent() -> AsyncIterator[bytes]:
            yield head.forwarded
            async for piece in read_body(stream, head.body):
                yield piece

        return Request(head.host, sent())

    def refusal(self, refused: Refused) -> bytes:
        status = {
            Reason.MALFORMED: HTTPStatus.BAD_REQUEST,
            Reason.LATE: HTTPStatus.REQUEST_TIMEOUT,
            Reason.UNRESOLVED: HTTPStatus.BAD_GATEWAY,
            Reason.UPSTREAM: HTTPStatus.BAD_GATEWAY,
        }.get(refused.reason, HTTPStatus.FORBIDDEN)
        text = f"{refused.detail}\n".encode()
        return (
            f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        ).encode() + text
