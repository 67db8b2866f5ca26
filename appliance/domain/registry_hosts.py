"""Which registries tenants may make the node talk to: those on the public internet, and those the operator names."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from appliance.domain.errors import InvalidRequest

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_INTERNAL_SUFFIXES = frozenset(
    {"localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "arpa"}
)


def refuse_internal(host: str, *, allowed: Collection[str]) -> None:
    """Raise InvalidRequest for a registry `host[:port]` that can only be an internal one, unless it is `allowed`.

    Decided by the name alone: CubeMaster has no network to resolve it in. What a public name leads to is for the
    network of the nodes to deny.
    """
    if host not in allowed and _is_internal(host.partition(":")[0].lower().rstrip(".")):
        raise InvalidRequest(
            f"images of '{host}' are refused, since it is not a public address; an operator can allow it with "
            "builds.internal_registries in cube-master.toml"
        )


def _is_internal(name: str) -> bool:
    try:
        address = ip_address(name)
    except ValueError:
        # Resolvers take `127.1`, `0x7f.1` and `2130706433` for addresses too. One label means whatever a search domain
        # makes of it.
        labels = name.split(".")
        return len(labels) == 1 or _NUMBER.fullmatch(labels[-1]) is not None or labels[-1] in _INTERNAL_SUFFIXES
    return not address.is_global or address.is_multicast
