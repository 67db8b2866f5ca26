"""Connects on behalf of a sandbox: to a name by what it resolves to here, to an address that its rules allow by itself.

Where the sandbox has a tunnel, its SOCKS5 proxy connects instead, and resolves names itself. Nothing leaves otherwise.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Final

from appliance.cubevs.egress import socks5
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.resolver import Resolver, Unresolved
from appliance.cubevs.egress.rules import SandboxRules
from appliance.cubevs.egress.stream import PIECE, Stream, TcpStream
from appliance.cubevs.egress.tunnel_tls import secured
from appliance.cubevs.maps import Destination
from appliance.domain.egress import Tunnel
from appliance.domain.errors import NetworkFailure

_ADDRESSES_TRIED: Final = 3


@dataclass(frozen=True, slots=True)
class Upstream:
    """An open connection to where a name or an address leads."""

    address: IPv4Address | None
    """None: the tunnel's other end knows."""
    tunnel: Tunnel | None
    """By which it leaves. None: from this node."""
    writer: StreamWriter
    """Of the TCP connection below `stream`."""
    stream: Stream


class Dialler:
    """`node_addresses` tells which addresses this node has now; `permitted` is as in `SandboxRules.allows_address`.

    `connect_s` is what one address may take to answer, `tunnel_s` a SOCKS5 proxy to reach a destination.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        node_addresses: Callable[[], Awaitable[Collection[IPv4Address]]],
        permitted: tuple[IPv4Network, ...],
        connect_s: float,
        tunnel_s: float,
    ) -> None:
        self._resolver = resolver
        self._node_addresses = node_addresses
        self._permitted = permitted
        self._connect_s = connect_s
        self._tunnel_s = tunnel_s

    async def dial(self, name: str, port: int, rules: SandboxRules) -> Upstream:
        """Return a connection to `name`, at one of its addresses that `rules` allow. Raises Refused."""
        if rules.tunnel is not None:
            return await self._by_tunnel(rules.tunnel, name, port, rules)
        try:
            found = await self._resolver.addresses(name)
        except Unresolved as error:
            raise Refused(Reason.UNRESOLVED, f"{name} cannot be resolved: {error}.") from error
        node_addresses = await self._known_node_addresses()
        allowed = [address for address in found if self._may_lead_to(name, address, rules, node_addresses)]
        if not allowed:
            raise Refused(Reason.ADDRESS, f"{name} leads to no address that this sandbox may reach.")
        opened = await self._open(allowed, port)
        if opened is None:
            raise Refused(Reason.UPSTREAM, f"Nothing answers for {name} on port {port}.")
        address, reader, writer = opened
        return Upstream(address, None, writer, TcpStream(reader, writer))

    async def dial_address(self, destination: Destination, rules: SandboxRules) -> Upstream:
        """Return a connection to where the guest sent its own, if `rules` allow that address. Raises Refused."""
        address, port = destination.address, destination.port
        if not await self.allows_by_address(address, rules):
            raise Refused(Reason.ADDRESS, f"{address} is no address that this sandbox may reach.")
        if rules.tunnel is not None:
            return await self._by_tunnel(rules.tunnel, address, port, rules)
        opened = await self._open([address], port)
        if opened is None:
            raise Refused(Reason.UPSTREAM, f"Nothing answers at {address} on port {port}.")
        _, reader, writer = opened
        return Upstream(address, None, writer, TcpStream(reader, writer))

    async def allows_by_address(self, address: IPv4Address, rules: SandboxRules) -> bool:
        """May the guest reach `address` now, whatever it asks for there? Raises Refused where that cannot be told."""
        # What the rules alone refuse, the node's addresses do not change.
        if not rules.allows_by_address(address, node_addresses=()):
            return False
        return rules.allows_by_address(address, node_addresses=await self._known_node_addresses())

    async def still_allows(self, name: str, address: IPv4Address | None, rules: SandboxRules) -> bool:
        """May a connection to `name` that was made to `address` go on, if the name may be asked for?

        Raises Refused where that cannot be told.
        """
        return address is None or self._may_lead_to(name, address, rules, await self._known_node_addresses())

    def _may_lead_to(
        self, name: str, address: IPv4Address, rules: SandboxRules, node_addresses: Collection[IPv4Address]
    ) -> bool:
        if not rules.allows_address(address, node_addresses=node_addresses, permitted=self._permitted):
            return False
        # A name that no rule allows passed because of an address: it may lead to none that would not have passed.
        return rules.allows_name(name) or rules.allows_by_address(address, node_addresses=node_addresses)

    async def _known_node_addresses(self) -> Collection[IPv4Address]:
        try:
            return await self._node_addresses()
        except NetworkFailure as error:
            raise Refused(Reason.UPSTREAM, "The node cannot tell its own addresses now: try again.") from error

    async def _open(
        self, addresses: list[IPv4Address], port: int
    ) -> tuple[IPv4Address, StreamReader, StreamWriter] | None:
        for address in addresses[:_ADDRESSES_TRIED]:
            try:
                async with asyncio.timeout(self._connect_s):
                    reader, writer = await asyncio.open_connection(str(address), port, limit=PIECE)
            except (OSError, TimeoutError):
                continue
            return address, reader, writer
        return None

    async def _by_tunnel(self, tunnel: Tunnel, target: str | IPv4Address, port: int, rules: SandboxRules) -> Upstream:
        try:
            async with asyncio.timeout(self._tunnel_s):
                opened = await self._open(await self._proxy_addresses(tunnel, rules), tunnel.port)
                if opened is None:
                    raise Refused(Reason.TUNNEL, f"The SOCKS5 proxy of this sandbox does not answer: {_place(tunnel)}.")
                _, reader, writer = opened
                try:
                    stream: Stream = TcpStream(reader, writer)
                    if tunnel.tls is not None:
                        stream = await secured(stream, tunnel.tls)
                    await socks5.connect(stream, target, port, username=tunnel.username, password=tunnel.password)
                except BaseException:
                    writer.transport.abort()
                    raise
        except TimeoutError as error:
            raise Refused(Reason.TUNNEL, f"The SOCKS5 proxy of this sandbox is too slow: {_place(tunnel)}.") from error
        except OSError as error:
            raise Refused(Reason.TUNNEL, f"The SOCKS5 proxy of this sandbox broke off: {_place(tunnel)}.") from error
        return Upstream(None, tunnel, writer, stream)

    async def _proxy_addresses(self, tunnel: Tunnel, rules: SandboxRules) -> list[IPv4Address]:
        """Return where the tenant's proxy may be: the tenant says so, and gets no way inside by that."""
        try:
            found: tuple[IPv4Address, ...] = (IPv4Address(tunnel.host),)
        except AddressValueError:
            try:
                found = await self._resolver.addresses(tunnel.host)
            except Unresolved as error:
                raise Refused(Reason.TUNNEL, f"The SOCKS5 proxy of this sandbox has no address: {error}.") from error
        nodes = await self._known_node_addresses()
        allowed = [a for a in found if rules.allows_address(a, node_addresses=nodes, permitted=self._permitted)]
        if not allowed:
            raise Refused(Reason.TUNNEL, f"The SOCKS5 proxy of this sandbox has no public address: {_place(tunnel)}.")
        return allowed


def _place(tunnel: Tunnel) -> str:
    return f"{tunnel.host} on port {tunnel.port}"
