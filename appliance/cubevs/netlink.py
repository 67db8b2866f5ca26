"""Links, routes, neighbours and tc filters, by rtnetlink.

A netlink socket belongs to the network namespace it was opened in and costs 0.2 ms: each call opens its own.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from appliance.cubevs.base import GATEWAY_MAC, GUEST_MAC
from appliance.cubevs.loader import FROM_GUEST, TO_GUEST, Programs
from appliance.domain.errors import NetworkFailure

_TO_INGRESS: Final = 0xFFFFFFF2
_TO_EGRESS: Final = 0xFFFFFFF3
_ALL_PROTOCOLS: Final = 0x0003
_PERMANENT: Final = 0x80
_ADDR_GEN_MODE_NONE: Final = 1
_SCOPE_LINK: Final = 253
_MTU: Final = 1500


@asynccontextmanager
async def _netlink(what: str) -> AsyncIterator[Any]:
    try:
        async with AsyncIPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        raise NetworkFailure(f"cannot {what}: {error}") from error


@dataclass(frozen=True, slots=True)
class Link:
    """A network device."""

    name: str
    ifindex: int
    mac: str | None


async def links(prefix: str) -> list[Link]:
    """Return every device whose name starts with `prefix`."""
    async with _netlink("list devices") as ipr:
        found = [Link(link.get("ifname"), link["index"], link.get("address")) async for link in await ipr.get_links()]
    return [link for link in found if link.name.startswith(prefix)]


async def local_addresses() -> set[IPv4Address]:
    """Return every IPv4 address of this network namespace."""
    found: set[IPv4Address] = set()
    async with _netlink("list addresses") as ipr:
        async for address in await ipr.get_addr(family=2):
            found.add(IPv4Address(address.get("local") or address.get("address")))
    return found


async def hold_address(ifindex: int, address: IPv4Address) -> None:
    """Put the node's own sandbox-side address on a device. Safe to repeat."""
    async with _netlink(f"set {address}") as ipr:
        await ipr.addr("replace", index=ifindex, address=str(address), prefixlen=32)
        await ipr.link("set", index=ifindex, state="up")


async def attach(ifindex: int, programs: Programs) -> None:
    """Put both programs on a tap, in place of former ones: each is swapped atomically. Safe to repeat."""
    async with _netlink(f"attach programs to device {ifindex}") as ipr:
        try:
            await ipr.tc("add", "clsact", index=ifindex)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
        for name, fd, parent in (
            (TO_GUEST, programs.to_guest, _TO_EGRESS),
            (FROM_GUEST, programs.from_guest, _TO_INGRESS),
        ):
            await ipr.tc(
                "replace-filter",
                "bpf",
                index=ifindex,
                fd=fd,
                name=f"{name}-{programs.digest}",
                parent=parent,
                prio=1,
                handle=1,
                protocol=_ALL_PROTOCOLS,
                direct_action=True,
            )


async def prepare(ifindex: int) -> None:
    """Give a new tap its MAC, before it is up: changing it later would flush the device's neighbours."""
    async with _netlink(f"prepare device {ifindex}") as ipr:
        # Guests know one gateway MAC on every node, and the kernel takes only frames for the device's own MAC.
        # Without an address generation mode the device gets no IPv6 address to send from.
        await ipr.link(
            "set",
            index=ifindex,
            address=GATEWAY_MAC,
            mtu=_MTU,
            IFLA_AF_SPEC={"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE]]}]]},
        )


async def connect(ifindex: int, address: IPv4Address, *, source: IPv4Address) -> None:
    """Bring a tap up and make `address` lead to it, from `source`. Safe to repeat."""
    async with _netlink(f"route {address} to device {ifindex}") as ipr:
        await ipr.link("set", index=ifindex, state="up")
        await ipr.route("replace", dst=f"{address}/32", oif=ifindex, prefsrc=str(source), scope=_SCOPE_LINK)
        await ipr.neigh("replace", dst=str(address), lladdr=GUEST_MAC, ifindex=ifindex, state=_PERMANENT)


async def label(ifindex: int, text: str) -> None:
    """Set the alias that `ip link` shows; empty removes it."""
    async with _netlink(f"label device {ifindex}") as ipr:
        await ipr.link("set", index=ifindex, ifalias=text)


async def delete(ifindex: int) -> None:
    """Remove a device, with its routes, neighbours and filters. An absent one is success."""
    async with _netlink(f"delete device {ifindex}") as ipr:
        try:
            await ipr.link("del", index=ifindex)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
