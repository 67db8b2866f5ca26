"""What a sandbox may reach and who may reach it, as a caller writes it, checked and turned into networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from appliance.domain.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class SandboxNetwork:
    """The rules of one sandbox, kept with it over pause and resume."""

    allow_internet: bool = True
    allow_out: tuple[str, ...] = ()
    """IPv4 addresses and CIDRs; they beat `deny_out`."""
    deny_out: tuple[str, ...] = ()
    allow_public_traffic: bool = True
    """False: the proxy demands the sandbox's traffic token."""
    mask_request_host: str | None = None
    """What services in the sandbox see as the host, `${PORT}` standing for the port."""


def parse_networks(entries: Iterable[str], *, kind: str) -> tuple[IPv4Network, ...]:
    """Return the networks of IPv4 addresses or CIDRs. `kind` is `allowed address` or `denied CIDR`, for the error."""
    networks = []
    for entry in entries:
        try:
            networks.append(IPv4Network(entry, strict=False))
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            raise InvalidRequest(f"invalid {kind} {entry}") from error
    return tuple(networks)
