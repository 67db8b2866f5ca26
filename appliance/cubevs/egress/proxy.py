"""The egress proxy: takes the connections that CubeVS diverts to it, and lets pass what a sandbox's rules allow.

A connection belongs to the sandbox whose address it comes from, which CubeVS wrote into its packets. It has one name
and one upstream, and ends when the rules no longer allow both.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

import structlog

from appliance.cubevs.egress.dial import Dialler, Upstream
from appliance.cubevs.egress.flow import Idleness, close, close_in_turn, pump, reset
from appliance.cubevs.egress.http_head import MAX_HEAD
from appliance.cubevs.egress.intercept import Interceptor
from appliance.cubevs.egress.metrics import EgressMetrics
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.requests import (
    Exchange,
    GuestProtocol,
    HttpRequest,
    Https,
    ListeningProtocol,
    TlsRequest,
)
from appliance.cubevs.egress.rule_files import RuleReader
from appliance.cubevs.egress.rules import SandboxRules
from appliance.cubevs.egress.stream import Stream, TcpStream
from appliance.domain.egress import HeaderRule

log = structlog.get_logger()

_IP_FREEBIND: Final = 15
_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """As in `EgressSettings`."""

    connections: int
    connections_per_sandbox: int
    request_s: float
    idle_s: float


@dataclass(eq=False, slots=True)
class _Connection:
    """One accepted connection. What it is for is known later than that it is there."""

    protocol: GuestProtocol
    """In which a refusal is said now."""
    address: IPv4Address
    reader: StreamReader
    writer: StreamWriter
    stream: Stream
    """What the guest says in that protocol: the connection itself, or what TLS makes of it."""
    rules: SandboxRules | None = None
    """By which it was judged last."""
    name: str | None = None
    injected: bool = False
    """Do its requests get headers?"""
    upstream: Upstream | None = None
    broken_off: bool = False

    def break_off(self) -> None:
        """End both sides. Whoever reads or writes them now gets an error, or the end."""
        self.broken_off = True
        reset(self.writer)
        if self.upstream is not None:
            reset(self.upstream.writer)


class EgressProxy:
    """Serves between `start` and `close`; `recheck` is to be called a few times a second."""

    def __init__(
        self,
        *,
        protocols: tuple[ListeningProtocol, ...],
        rules: RuleReader,
        dialler: Dialler,
        interceptor: Interceptor,
        limits: Limits,
        metrics: EgressMetrics,
    ) -> None:
        self._protocols = protocols
        self._rules = rules
        self._dialler = dialler
        self._interceptor = interceptor
        self._limits = limits
        self._metrics = metrics
        self._servers: list[asyncio.Server] = []
        self._open: dict[IPv4Address, set[_Connection]] = {}
        self._count = 0

    async def start(self, address: IPv4Address) -> None:
        """Listen on `address`, which the node may get later. Raises OSError."""
        for protocol in self._protocols:
            # Named as TCP, it makes asyncio switch Nagle's algorithm off for what it accepts.
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                listener.bind((str(address), protocol.listen_port))
                server = await asyncio.start_server(
                    self._acceptor(protocol), sock=listener, limit=MAX_HEAD, backlog=_BACKLOG
                )
            except BaseException:
                listener.close()
                raise
            self._servers.append(server)

    async def close(self) -> None:
        """Take no more connections and break off those that are open."""
        for server in self._servers:
            server.close()
        for connections in list(self._open.values()):
            for connection in tuple(connections):
                connection.break_off()
        for server in self._servers:
            await server.wait_closed()

    async def recheck(self) -> None:
        """Cut every connection that the rules in force no longer allow."""
        for address, connections in list(self._open.items()):
            rules = self._rules.rules(address)
            for connection in tuple(connections):
                known = connection.rules is not None and not connection.broken_off
                if known and not await self._may_go_on(connection, rules):
                    self._note(connection, Reason.POLICY_CHANGED)
                    connection.break_off()

    def _acceptor(self, protocol: ListeningProtocol) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            if peer is None:  # gone already
                writer.transport.abort()
                return
            stream = TcpStream(reader, writer)
            await self._accept(_Connection(protocol, IPv4Address(peer[0]), reader, writer, stream), protocol)

        return accept

    async def _accept(self, connection: _Connection, protocol: ListeningProtocol) -> None:
        """Give the connection its place among those of its sandbox for as long as it lasts."""
        self._metrics.accepted.labels(protocol.label).inc()
        siblings = self._open.get(connection.address, set())
        if self._count >= self._limits.connections or len(siblings) >= self._limits.connections_per_sandbox:
            self._note(connection, Reason.TOO_MANY)
            reset(connection.writer)
            return
        self._open[connection.address] = siblings
        siblings.add(connection)
        self._count += 1
        self._metrics.open.inc()
        try:
            await self._serve(connection, protocol)
        finally:
            self._metrics.open.dec()
            self._count -= 1
            siblings.discard(connection)
            if not siblings:
                del self._open[connection.address]
            if connection.upstream is not None:
                connection.upstream.writer.transport.abort()
            connection.writer.transport.abort()

    async def _serve(self, connection: _Connection, protocol: ListeningProtocol) -> None:
        try:
            exchange, upstream, stream = await self._reached(connection, protocol)
        except Refused as refused:
            if not connection.broken_off:
                self._note(connection, refused.reason)
                connection.stream.write(connection.protocol.refusal(refused))
                await close_in_turn(connection.stream, connection.reader, connection.writer)
            return
        except OSError:  # the guest went away
            return
        reason: Reason | None = None
        try:
            async with Idleness(self._limits.idle_s) as idleness:
                await self._pass(connection, exchange, stream, idleness)
        except* Refused as group:
            # The upstream has part of a request: that it is broken off is all that can be said to either side.
            reason = next(e.reason for e in group.exceptions if isinstance(e, Refused))
        except* TimeoutError:
            reason = Reason.IDLE
        except* OSError:
            # One side was reset, and so will be the other.
            connection.break_off()
        if reason is not None and not connection.broken_off:
            self._note(connection, reason)
            connection.break_off()
        if not connection.broken_off:
            await close(upstream.writer)
            await close_in_turn(connection.stream, connection.reader, connection.writer)

    async def _reached(self, connection: _Connection, protocol: ListeningProtocol) -> tuple[Exchange, Upstream, Stream]:
        """Return what the guest wants and a connection to who has it, with what passes on that. Raises Refused."""
        exchange = await self._wanted(connection, protocol)
        rules, name = connection.rules, connection.name
        assert rules is not None
        assert name is not None
        port = connection.protocol.upstream_port
        connection.upstream = upstream = await self._dialler.dial(name, port, rules)
        stream: Stream = TcpStream(upstream.reader, upstream.writer)
        if isinstance(connection.protocol, Https):
            stream = await self._interceptor.as_client(stream, name, connection.stream)
        # Dialling took time, in which the rules may have changed.
        if connection.broken_off or not await self._may_go_on(connection, self._rules.rules(connection.address)):
            raise Refused(Reason.POLICY_CHANGED, f"{name} is no domain that this sandbox may reach any more.")
        if connection.injected:
            self._metrics.injected.labels(connection.protocol.label).inc()
        return exchange, upstream, stream

    async def _wanted(self, connection: _Connection, protocol: ListeningProtocol) -> Exchange:
        """Return what the guest wants and may have, with the headers that belong to it. Raises Refused."""
        connection.rules = self._rules_of(connection)
        async with self._arrival():
            request = await protocol.read(connection.stream)
        rule = self._judged(connection, request.name)
        if rule is None:
            return request
        connection.injected = True
        if isinstance(request, TlsRequest):
            request = await self._intercepted(connection, request)
            rule = self._judged(connection, request.name)
            if rule is None:
                raise Refused(Reason.POLICY_CHANGED, f"The headers for {request.name} have just been removed.")
        return request.with_headers(rule)

    async def _intercepted(self, connection: _Connection, request: TlsRequest) -> HttpRequest:
        """Return the request that the guest makes by TLS, of which we are the other end from now on."""
        rules = connection.rules
        assert rules is not None
        protocol = Https()
        async with self._arrival():
            connection.stream = await self._interceptor.as_server(connection.stream, request.hello, rules)
            connection.protocol = protocol
            inner = await protocol.read(connection.stream)
        if inner.name != request.name:
            raise Refused(Reason.MALFORMED, f"This request is for {inner.name} on a connection to {request.name}.")
        return inner

    def _judged(self, connection: _Connection, name: str) -> HeaderRule | None:
        """Return the rule in force for the headers of a request to `name`. Raises Refused if that may not be made."""
        connection.rules = rules = self._rules_of(connection)
        if not rules.allows_name(name):
            raise Refused(Reason.DOMAIN, f"{name} is no domain that this sandbox may reach.")
        connection.name = name
        return rules.header_rule(name)

    @asynccontextmanager
    async def _arrival(self) -> AsyncIterator[None]:
        """Give what the guest has to say first its time. Raises Refused."""
        try:
            async with asyncio.timeout(self._limits.request_s):
                yield
        except TimeoutError as error:
            raise Refused(Reason.LATE, "The request did not arrive in time.") from error

    def _rules_of(self, connection: _Connection) -> SandboxRules:
        rules = self._rules.rules(connection.address)
        if rules is None or not _are_of_one_sandbox(connection.rules, rules):
            raise Refused(Reason.NO_POLICY, "This sandbox may reach no domains.")
        return rules

    async def _may_go_on(self, connection: _Connection, rules: SandboxRules | None) -> bool:
        """Do `rules`, which are in force now, allow what the connection is for, as far as that is known yet?"""
        if rules is None or not _are_of_one_sandbox(connection.rules, rules):
            return False
        if rules is connection.rules or connection.name is None or connection.upstream is None:
            return True
        rule = rules.header_rule(connection.name)
        if connection.injected is (rule is None) or (rule is not None and rule.refusal):
            return False  # no request is made past a rule; one under way keeps the headers that it began with
        allowed = await self._dialler.still_allows(connection.name, connection.upstream.address, rules)
        if allowed:
            connection.rules = rules
        return allowed

    async def _pass(self, connection: _Connection, exchange: Exchange, upstream: Stream, idleness: Idleness) -> None:
        """Pass on both ways until both sides have ended, or the one answer that there is has been given."""

        def counted(direction: str) -> Callable[[int], None]:
            counter = self._metrics.moved.labels(direction)

            def moved(size: int) -> None:
                counter.inc(size)
                idleness.moved()

            return moved

        async with asyncio.TaskGroup() as sides:
            sending = sides.create_task(pump(exchange.sent(), upstream, moved=counted("sent")))
            await pump(exchange.received(upstream), connection.stream, moved=counted("received"))
            if exchange.ends_with_answer:
                sending.cancel()

    def _note(self, connection: _Connection, reason: Reason) -> None:
        self._metrics.refused.labels(connection.protocol.label, reason).inc()
        # Guests decide how often: not for the journal of a node in use.
        log.debug(
            "egress_refused",
            sandbox_id=connection.rules.sandbox_id if connection.rules else None,
            address=str(connection.address),
            protocol=connection.protocol.label,
            name=connection.name,
            reason=reason,
        )


def _are_of_one_sandbox(former: SandboxRules | None, now: SandboxRules) -> bool:
    """Addresses are used again: rules of another sandbox are no newer rules of this one."""
    return former is None or former.sandbox_id == now.sandbox_id
