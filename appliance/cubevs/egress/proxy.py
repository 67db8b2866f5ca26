"""The egress proxy: takes the connections that CubeVS diverts to it, and lets pass what a sandbox's rules allow.

A connection belongs to the sandbox whose address it comes from, which CubeVS wrote into its packets. It has one name
and one upstream, and ends when the rules no longer allow both.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

import structlog

from appliance.cubevs.egress.dial import Dialler, Upstream
from appliance.cubevs.egress.flow import PIECE, Idleness, close, close_in_turn, discard, pump, reset
from appliance.cubevs.egress.http_head import MAX_HEAD
from appliance.cubevs.egress.metrics import EgressMetrics
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.requests import GuestProtocol, Request
from appliance.cubevs.egress.rule_files import RuleReader
from appliance.cubevs.egress.rules import SandboxRules

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
    address: IPv4Address
    writer: StreamWriter
    rules: SandboxRules | None = None
    """By which it was judged last."""
    name: str | None = None
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
        protocols: tuple[GuestProtocol, ...],
        rules: RuleReader,
        dialler: Dialler,
        limits: Limits,
        metrics: EgressMetrics,
    ) -> None:
        self._protocols = protocols
        self._rules = rules
        self._dialler = dialler
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

    def _acceptor(self, protocol: GuestProtocol) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            if peer is None:  # gone already
                writer.transport.abort()
                return
            await self._accept(_Connection(protocol, IPv4Address(peer[0]), writer), reader)

        return accept

    async def _accept(self, connection: _Connection, reader: StreamReader) -> None:
        """Give the connection its place among those of its sandbox for as long as it lasts."""
        self._metrics.accepted.labels(connection.protocol.label).inc()
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
            await self._serve(connection, reader)
        finally:
            self._metrics.open.dec()
            self._count -= 1
            siblings.discard(connection)
            if not siblings:
                del self._open[connection.address]
            if connection.upstream is not None:
                connection.upstream.writer.transport.abort()
            connection.writer.transport.abort()

    async def _serve(self, connection: _Connection, reader: StreamReader) -> None:
        try:
            request, upstream = await self._open_upstream(connection, reader)
        except Refused as refused:
            if not connection.broken_off:
                self._note(connection, refused.reason)
                connection.writer.write(connection.protocol.refusal(refused))
                await close_in_turn(reader, connection.writer)
            return
        except OSError:  # the guest went away
            return
        reason: Reason | None = None
        try:
            async with Idleness(self._limits.idle_s) as idleness:
                await self._exchange(connection, request, upstream, reader, idleness)
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
            await close_in_turn(reader, connection.writer)

    async def _open_upstream(self, connection: _Connection, reader: StreamReader) -> tuple[Request, Upstream]:
        """Return what the guest wants and a connection to who has it. Raises Refused."""
        connection.rules = self._rules_of(connection)
        try:
            async with asyncio.timeout(self._limits.request_s):
                request = await connection.protocol.read(reader)
        except TimeoutError as error:
            raise Refused(Reason.LATE, "The request did not arrive in time.") from error
        connection.rules = rules = self._rules_of(connection)
        if not rules.allows_name(request.name):
            raise Refused(Reason.DOMAIN, f"{request.name} is no domain that this sandbox may reach.")
        connection.name = request.name
        connection.upstream = upstream = await self._dialler.dial(
            request.name, connection.protocol.upstream_port, rules
        )
        # Dialling took time, in which the rules may have changed.
        if connection.broken_off or not await self._may_go_on(connection, self._rules.rules(connection.address)):
            raise Refused(Reason.POLICY_CHANGED, f"{request.name} is no domain that this sandbox may reach any more.")
        return request, upstream

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
        allowed = await self._dialler.still_allows(connection.name, connection.upstream.address, rules)
        if allowed:
            connection.rules = rules
        return allowed

    async def _exchange(
        self,
        connection: _Connection,
        request: Request,
        upstream: Upstream,
        reader: StreamReader,
        idleness: Idleness,
    ) -> None:
        """Pass on both ways until both sides have ended, or the one answer that there is has been given."""
        sent = self._metrics.moved.labels("sent")
        received = self._metrics.moved.labels("received")

        def moved_back(size: int) -> None:
            received.inc(size)
            idleness.moved()

        async def forward() -> None:
            async for piece in request.sent:
                upstream.writer.write(piece)
                await upstream.writer.drain()
                sent.inc(len(piece))
                idleness.moved()
            if connection.protocol.one_request:
                await discard(reader)
            upstream.writer.write_eof()

        for writer in (connection.writer, upstream.writer):
            writer.transport.set_write_buffer_limits(PIECE)
        async with asyncio.TaskGroup() as sides:
            forwarding = sides.create_task(forward())
            await pump(upstream.reader, connection.writer, moved=moved_back)
            if connection.protocol.one_request:
                forwarding.cancel()

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
