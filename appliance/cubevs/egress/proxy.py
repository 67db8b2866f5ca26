"""The egress proxy: takes the connections that CubeVS diverts to it, and lets pass what a sandbox's rules allow.

A connection belongs to the sandbox whose address it comes from, which CubeVS wrote into its packets. It has one
upstream, by the name that the guest asks for or by the address that it sent the connection to, and ends when the rules
no longer allow that. A name is never looked for where the guest sent it: any address can be claimed to have any name.
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
from appliance.cubevs.egress.opening import Opening
from appliance.cubevs.egress.originals import Originals
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.requests import (
    Exchange,
    GuestProtocol,
    HttpRequest,
    Https,
    ListeningProtocol,
    TlsRequest,
    Unread,
)
from appliance.cubevs.egress.rule_files import RuleReader
from appliance.cubevs.egress.rules import SandboxRules
from appliance.cubevs.egress.stream import Stream, TcpStream
from appliance.cubevs.maps import Destination
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
    destination: Destination | None
    """Where the guest sent it. None: unknown, it can be judged by its name only."""
    reader: StreamReader
    writer: StreamWriter
    stream: Stream
    """What the guest says in that protocol: the connection itself, or what TLS makes of it."""
    rules: SandboxRules | None = None
    """By which it was judged last."""
    name: str | None = None
    by_address: bool = False
    """Is it passed on to `destination` as it is, whatever name is in it?"""
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
        originals: Originals,
        rules: RuleReader,
        dialler: Dialler,
        interceptor: Interceptor,
        limits: Limits,
        metrics: EgressMetrics,
    ) -> None:
        self._protocols = protocols
        self._originals = originals
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
                if connection.rules is None or connection.broken_off:
                    continue
                try:
                    allowed = await self._may_go_on(connection, rules)
                except Refused:  # it cannot be told now: the next time
                    continue
                if not allowed:
                    self._note(connection, Reason.POLICY_CHANGED)
                    connection.break_off()

    def _acceptor(self, protocol: ListeningProtocol) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            if peer is None:  # gone already
                writer.transport.abort()
                return
            address, port = IPv4Address(peer[0]), peer[1]
            destination = self._originals.destination(address, port, protocol.listen_port)
            stream = TcpStream(reader, writer)
            await self._accept(_Connection(protocol, address, destination, reader, writer, stream), protocol)

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
                await self._refuse(connection, refused)
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

    async def _refuse(self, connection: _Connection, refused: Refused) -> None:
        if said := connection.protocol.refusal(refused):
            connection.stream.write(said)
            await close_in_turn(connection.stream, connection.reader, connection.writer)
        else:
            connection.break_off()

    async def _reached(self, connection: _Connection, protocol: ListeningProtocol) -> tuple[Exchange, Upstream, Stream]:
        """Return what the guest wants and a connection to who has it, with what passes on that. Raises Refused."""
        exchange = await self._wanted(connection, protocol)
        connection.upstream = upstream = await self._dialled(connection)
        stream = upstream.stream
        if isinstance(connection.protocol, Https):
            assert connection.name is not None
            stream = await self._interceptor.as_client(stream, connection.name, connection.stream)
        # Dialling took time, in which the rules may have changed.
        if connection.broken_off or not await self._may_go_on(connection, self._rules.rules(connection.address)):
            raise Refused(Reason.POLICY_CHANGED, "What this sandbox may reach has just been changed.")
        by, way = "address" if connection.by_address else "name", "tunnel" if upstream.tunnel else "node"
        self._metrics.upstreams.labels(by, way).inc()
        if connection.injected:
            self._metrics.injected.labels(connection.protocol.label).inc()
        return exchange, upstream, stream

    async def _wanted(self, connection: _Connection, protocol: ListeningProtocol) -> Exchange:
        """Return what the guest wants and may have, with the headers that belong to it. Raises Refused."""
        opening = Opening(connection.stream)
        connection.rules = rules = self._rules_of(connection)
        if not rules.header_rules and await self._passes_by_address(connection, rules):
            # Whatever its name is, it makes no difference; and the upstream may be the one to speak first.
            return self._unread(connection, opening)
        try:
            async with self._arrival():
                request = await protocol.read(opening)
        except Refused:
            connection.rules = rules = self._rules_of(connection)
            if await self._passes_by_address(connection, rules):
                return self._unread(connection, opening)
            raise
        rule = await self._judged(connection, request.name)
        if rule is None:
            if await self._passes_by_address(connection, self._rules_of(connection)):
                return self._unread(connection, opening)
            opening.settled()
            return request
        opening.settled()
        connection.injected = True
        if isinstance(request, TlsRequest):
            request = await self._intercepted(connection, request)
            rule = await self._judged(connection, request.name)
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

    async def _dialled(self, connection: _Connection) -> Upstream:
        rules = connection.rules
        assert rules is not None
        if connection.by_address:
            assert connection.destination is not None
            return await self._dialler.dial_address(connection.destination, rules)
        assert connection.name is not None
        return await self._dialler.dial(connection.name, connection.protocol.upstream_port, rules)

    def _unread(self, connection: _Connection, opening: Opening) -> Unread:
        connection.by_address = True
        return Unread(opening.settled(), connection.stream)

    async def _judged(self, connection: _Connection, name: str) -> HeaderRule | None:
        """Return the rule in force for the headers of a request to `name`. Raises Refused if that may not be made."""
        connection.rules = rules = self._rules_of(connection)
        if not rules.allows_name(name) and not await self._passes_by_address(connection, rules):
            raise Refused(Reason.DOMAIN, f"{name} is no domain that this sandbox may reach.")
        connection.name = name
        return rules.header_rule(name)

    async def _passes_by_address(self, connection: _Connection, rules: SandboxRules) -> bool:
        """Do `rules` allow where the guest sent the connection? Raises Refused where that cannot be told."""
        destination = connection.destination
        return destination is not None and await self._dialler.allows_by_address(destination.address, rules)

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
        """Do `rules`, which are in force now, allow what the connection is for, as far as that is known yet?

        Raises Refused where that cannot be told.
        """
        if rules is None or not _are_of_one_sandbox(connection.rules, rules):
            return False
        upstream, name = connection.upstream, connection.name
        if rules is connection.rules or upstream is None:
            return True
        if rules.tunnel != upstream.tunnel:
            return False
        rule = rules.header_rule(name) if name is not None else None
        if connection.injected is (rule is None) or (rule is not None and rule.refusal):
            return False  # no request is made past a rule; one under way keeps the headers that it began with
        allowed = await self._passes_by_address(connection, rules)
        if not connection.by_address:
            assert name is not None
            allowed |= rules.allows_name(name)
            allowed &= await self._dialler.still_allows(name, upstream.address, rules)
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
