"""Which registries tenants may make the node talk to: those on the public internet, and those the operator names."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from appliance.domain.errors import InvalidRequest

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_INTERNAL_SUFFIXES = frozenset(
    {"localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "arpa"}
)

_NAT64 = IPv6Network("64:ff9b::/96")


def refuse_internal(host: str, *, allowed: Collection[str]) -> None:
    """Raise InvalidRequest for a registry `host[:port]` that can only be an internal one, unless it is `allowed`.

    Decided by the name alone: CubeMaster has no network to resolve it in. Nodes look at what a public name leads to.
    """
    if host not in allowed and is_internal(host.partition(":")[0].lower().rstrip(".")):
        raise InvalidRequest(
            f"images of '{host}' are refused, since it is not a public address; an operator can allow it with "
            "builds.internal_registries in cube-master.toml"
        )


def is_internal(name: str) -> bool:
    """Tell whether a host, in lower case, is an address that is not public, or a name that can only be internal."""
    try:
        address = ip_address(name)
    except ValueError:
        # Resolvers take `127.1`, `0x7f.1` and `2130706433` for addresses too. One label means whatever a search domain
        # makes of it.
        labels = name.split(".")
        return len(labels) == 1 or _NUMBER.fullmatch(labels[-1]) is not None or labels[-1] in _INTERNAL_SUFFIXES
    return not is_public(address)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is one of the public internet's, also where it only wraps another one."""
    meant = unwrapped(address)
    return meant.is_global and not meant.is_multicast


def unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    _, behind_teredo = address.teredo or (None, None)
    return address.ipv4_mapped or address.sixtofour or behind_teredo or address
