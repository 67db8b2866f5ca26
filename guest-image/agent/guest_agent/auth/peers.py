"""Where /init may come from: the node, never the sandbox's own programs.

/init replaces the access token, so a program in the sandbox that could call it would lock out the owner. The guest's
own connections come from loopback or from its own address; CubeVS lets no other sandbox's packets in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

GUEST_ADDRESS = IPv4Address("169.254.0.21")
"""Address of eth0 in every guest."""


@dataclass(frozen=True, slots=True)
class InitPeers:
    """`own` addresses are refused besides loopback; `allowed` ones are accepted whatever they are."""

    own: Collection[IPv4Address] = (GUEST_ADDRESS,)
    allowed: Collection[IPv4Address] = ()

    def admits(self, peer: str | None) -> bool:
        """Return whether `peer`, the address of a TCP connection's other end, may send /init."""
        try:
            address = ip_address(peer or "")
        except ValueError:
            return False
        if not isinstance(address, IPv4Address):
            return False
        if address in self.allowed:
            return True
        return not address.is_loopback and not address.is_unspecified and address not in self.own
