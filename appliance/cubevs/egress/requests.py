"""The protocols in which a guest may name what it wants: how the name is read, and how a refusal is said."""

from __future__ import annotations

import asyncio
import re
from asyncio import IncompleteReadError, LimitOverrunError
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Protocol

from appliance.cubevs.base import PROXY_HTTP_PORT, PROXY_TCP_PORT, PROXY_TLS_PORT
from appliance.cubevs.egress.client_hello import ClientHello, read_client_hello
from appliance.cubevs.egress.flow import discard
from appliance.cubevs.egress.http_body import read_body
from appliance.cubevs.egress.http_head import RequestHead, parse_head, read_head
from appliance.cubevs.egress.injection import Fields, injected
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.stream import Stream, pieces
from appliance.domain.egress import HeaderRule

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_SWITCHING = b"101"


class Exchange(Protocol):
    """What passes between a guest and an upstream."""

    ends_with_answer: bool
    """Is it over once the upstream has ended, whatever the guest still says?"""

    def sent(self) -> AsyncIterator[bytes]:
        """Yield all that may be passed on of what the guest says. Raises Refused where the rest is in doubt."""
        ...

    def received(self, upstream: Stream) -> AsyncIterator[bytes]:
        """Yield all that the guest gets."""
        ...


class Unread:
    """A connection of any protocol, passed on byte by byte; `taken` is what was read of it in search of a name."""

    ends_with_answer = False

    def __init__(self, taken: bytes, guest: Stream) -> None:
        self._taken = taken
        self._guest = guest

    async def sent(self) -> AsyncIterator[bytes]:
        if self._taken:
            yield self._taken
        async for piece in pieces(self._guest):
            yield piece

    def received(self, upstream: Stream) -> AsyncIterator[bytes]:
        return pieces(upstream)


class TlsRequest:
    """A connection that is passed on as it is."""

    ends_with_answer = False

    def __init__(self, hello: ClientHello, guest: Stream) -> None:
        self.name = hello.server_name
        self.hello = hello
        self._guest = guest

    async def sent(self) -> AsyncIterator[bytes]:
        yield self.hello.flight
        async for piece in pieces(self._guest):
            yield piece

    def received(self, upstream: Stream) -> AsyncIterator[bytes]:
        return pieces(upstream)


class HttpRequest:
    """One request: the connection ends with it, so that none that follows goes unread."""

    ends_with_answer = True

    def __init__(self, head: RequestHead, guest: Stream, added: Fields = ()) -> None:
        self.name = head.host
        self._head = head
        self._guest = guest
        self._added = added

    def with_headers(self, rule: HeaderRule) -> Exchange:
        """Return the request with what the rule adds. Raises Refused where it lets nothing pass."""
        kind = WebSocketRequest if self._head.asks_for_websocket else HttpRequest
        return kind(self._head, self._guest, injected(rule))

    async def sent(self) -> AsyncIterator[bytes]:
        yield self._head.forwarded(self._added)
        async for piece in read_body(self._guest, self._head.body):
            yield piece
        await discard(self._guest)

    def received(self, upstream: Stream) -> AsyncIterator[bytes]:
        return pieces(upstream)


class WebSocketRequest:
    """A request that makes a WebSocket of its connection, if the upstream agrees. See `HttpRequest`."""

    ends_with_answer = True

    def __init__(self, head: RequestHead, guest: Stream, added: Fields = ()) -> None:
        self._head = head
        self._guest = guest
        self._added = added
        self._agreed = asyncio.get_running_loop().create_future()

    async def sent(self) -> AsyncIterator[bytes]:
        yield self._head.forwarded(self._added, websocket=True)
        # Before the upstream agrees, what follows could be another request.
        if not await self._agreed:
            await discard(self._guest)
            return
        async for piece in pieces(self._guest):
            yield piece

    async def received(self, upstream: Stream) -> AsyncIterator[bytes]:
        status = b"100"
        while status.startswith(b"1") and status != _SWITCHING:
            try:
                head = await upstream.readuntil(b"\r\n\r\n")
            except IncompleteReadError as error:
                head = error.partial
            except LimitOverrunError as error:
                raise Refused(Reason.UPSTREAM, "The head of the answer is too long.") from error
            match = _STATUS.match(head)
            status = match[1] if match else b""
            if status == _SWITCHING or not status.startswith(b"1"):
                self._agreed.set_result(status == _SWITCHING)
            yield head
        async for piece in pieces(upstream):
            yield piece


class GuestProtocol(Protocol):
    label: str
    """For metrics and logs."""
    upstream_port: int

    def refusal(self, refused: Refused) -> bytes:
        """Return how this protocol says no. Empty: it has no word for that, and the connection is reset."""
        ...


class ListeningProtocol(GuestProtocol, Protocol):
    """One that guests are diverted to."""

    listen_port: int

    async def read(self, guest: Stream) -> TlsRequest | HttpRequest:
        """Read until it is known what the guest wants. Raises Refused."""
        ...


class Tls:
    label = "tls"
    listen_port = PROXY_TLS_PORT
    upstream_port = 443

    def __init__(self, *, allow_ech: bool) -> None:
        self._allow_ech = allow_ech

    async def read(self, guest: Stream) -> TlsRequest:
        return TlsRequest(await read_client_hello(guest, allow_ech=self._allow_ech), guest)

    def refusal(self, refused: Refused) -> bytes:
        """Return a fatal alert, which every client turns into an error of its own words."""
        decode_error, access_denied, internal_error = 50, 49, 80
        alert = {
            Reason.MALFORMED: decode_error,
            Reason.UNRESOLVED: internal_error,
            Reason.UPSTREAM: internal_error,
            Reason.TUNNEL: internal_error,
        }.get(refused.reason, access_denied)
        return bytes((21, 3, 3, 0, 2, 2, alert))


class Http:
    label = "http"
    listen_port = PROXY_HTTP_PORT
    upstream_port = 80

    async def read(self, guest: Stream) -> HttpRequest:
        return HttpRequest(parse_head(await read_head(guest), port=self.upstream_port), guest)

    def refusal(self, refused: Refused) -> bytes:
        status = {
            Reason.MALFORMED: HTTPStatus.BAD_REQUEST,
            Reason.LATE: HTTPStatus.REQUEST_TIMEOUT,
            Reason.UNRESOLVED: HTTPStatus.BAD_GATEWAY,
            Reason.UPSTREAM: HTTPStatus.BAD_GATEWAY,
            Reason.TUNNEL: HTTPStatus.BAD_GATEWAY,
            Reason.UNVERIFIED: HTTPStatus.BAD_GATEWAY,
        }.get(refused.reason, HTTPStatus.FORBIDDEN)
        text = f"{refused.detail}\n".encode()
        return (
            f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        ).encode() + text


class Https(Http):
    """HTTP in a TLS connection that the proxy itself is the end of."""

    label = "https"
    upstream_port = 443


class Tcp:
    """Any protocol on any other port: nothing of it is read, and so it passes by its address or not at all."""

    label = "tcp"
    listen_port = PROXY_TCP_PORT
    upstream_port = 0  # the guest's own

    async def read(self, _guest: Stream) -> HttpRequest:
        raise Refused(Reason.UNNAMED, "No rule allows the address of this connection, and there is no name in it.")

    def refusal(self, _refused: Refused) -> bytes:
        return b""
