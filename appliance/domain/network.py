"""Egress rules as a caller writes them, checked and turned into networks."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from appliance.domain.errors import InvalidRequest


def parse_networks(entries: Iterable[str], *, kind: str) -> tuple[IPv4Network, ...]:
    """Return the networks of IPv4 addresses or CIDRs. `kind` is `allowed address` or `denied CIDR`, for the error."""
    networks = []
    for entry in entries:
        try:
            networks.append(IPv4Network(entry, strict=False))
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            raise InvalidRequest(f"invalid {kind} {entry}") from error
    return tuple(networks)
