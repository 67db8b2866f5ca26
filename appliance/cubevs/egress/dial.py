"""Connects to a name on behalf of a sandbox: by what the name resolves to here, never by what the guest says."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.resolver import Resolver, Unresolved
from appliance.cubevs.egress.rules import SandboxRules
from appliance.cubevs.egress.stream import PIECE
from appliance.domain.errors import NetworkFailure

_ADDRESSES_TRIED: Final = 3


@dataclass(frozen=True, slots=True)
class Upstream:
    """An open connection to where a name leads."""

    address: IPv4Address
    reader: StreamReader
    writer: StreamWriter


class Dialler:
    """`node_addresses` tells which addresses this node has now; `permitted` is as in `SandboxRules.allows_address`."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        node_addresses: Callable[[], Awaitable[Collection[IPv4Address]]],
        permitted: tuple[IPv4Network, ...],
        connect_s: float,
    ) -> None:
        self._resolver = resolver
        self._node_addresses = node_addresses
        self._permitted = permitted
        self._connect_s = connect_s

    async def dial(self, name: str, port: int, rules: SandboxRules) -> Upstream:
        """Return a connection to one of the name's addresses that `rules` allow. Raises Refused."""
        try:
            found = await self._resolver.addresses(name)
        except Unresolved as error:
            raise Refused(Reason.UNRESOLVED, f"{name} cannot be resolved: {error}.") from error
        try:
            node_addresses = await self._node_addresses()
        except NetworkFailure as error:
            raise Refused(Reason.UPSTREAM, "The node cannot tell its own addresses now: try again.") from error
        allowed = [address for address in found if self._allows(address, rules, node_addresses)]
        if not allowed:
            raise Refused(Reason.ADDRESS, f"{name} leads to no address that this sandbox may reach.")
        for address in allowed[:_ADDRESSES_TRIED]:
            try:
                async with asyncio.timeout(self._connect_s):
                    reader, writer = await asyncio.open_connection(str(address), port, limit=PIECE)
            except (OSError, TimeoutError):
                continue
            return Upstream(address, reader, writer)
        raise Refused(Reason.UPSTREAM, f"Nothing answers for {name} on port {port}.")

    async def still_allows(self, name: str, address: IPv4Address, rules: SandboxRules) -> bool:
        """May a connection to `name` that was made to `address` go on?"""
        return rules.allows_name(name) and self._allows(address, rules, await self._node_addresses())

    def _allows(self, address: IPv4Address, rules: SandboxRules, node_addresses: Collection[IPv4Address]) -> bool:
        return rules.allows_address(address, node_addresses=node_addresses, permitted=self._permitted)
