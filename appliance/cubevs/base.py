"""The seam to CubeVS, the switch between sandbox taps and the world.

Every guest believes it is `GUEST_ADDRESS` behind `GATEWAY_ADDRESS`. CubeVS gives each tap a node-wide address and
translates 1:1 in eBPF on the tap itself, so that nothing in a guest is reconfigured when it is cloned.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from appliance.domain.egress import HeaderRule, Tunnel
from appliance.domain.ids import SandboxId

GUEST_ADDRESS = IPv4Address("169.254.0.21")
GATEWAY_ADDRESS = IPv4Address("169.254.0.22")
GUEST_PREFIX_LENGTH = 30
GUEST_MAC = "02:fc:00:00:00:05"
GATEWAY_MAC = "02:fc:00:00:00:06"

# Of the egress proxy, on the node's own address of the sandbox network. Below the range that outgoing connections get.
PROXY_HTTP_PORT = 10080
PROXY_TLS_PORT = 10443
PROXY_TCP_PORT = 10999
"""For what a guest behind a tunnel sends to any other port."""

HARD_DENIED_NETWORKS = tuple(
    IPv4Network(network)
    for network in (
        "169.254.0.0/16",  # link local, with 169.254.169.254
        "168.63.129.16/32",  # Azure
        "100.100.100.200/32",  # Alibaba
        "127.0.0.0/8",
        "0.0.0.0/8",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""Never reachable, whatever a setting or a policy says: clouds hand out credentials there."""


class DropReason(IntEnum):
    """Why a packet was dropped: shared by the eBPF programs, the metrics and the tests. Numbers are never reused."""

    UNCONFIGURED = 1
    NOT_ADMITTED = 2
    TRUNCATED = 3
    NOT_IPV4 = 4
    SPOOFED_MAC = 5
    SPOOFED_ADDRESS = 6
    FRAGMENT = 7
    IP_OPTIONS = 8
    TO_SANDBOX = 9
    TO_HOST = 10
    DENIED_NETWORK = 11
    POLICY = 12
    UNSUPPORTED_PROTOCOL = 13
    NOT_FROM_HOST = 14
    ARP_REFUSED = 15
    REWRITE_FAILED = 16
    NOT_TO_GATEWAY = 17
    PROXY_PORT_TAKEN = 18
    """The guest used the port of a flow that goes to the egress proxy for another destination as well."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap device with its programs attached. Taps are reused; an unadmitted tap passes nothing but host traffic."""

    name: str
    ifindex: int
    address: IPv4Address
    """How this node reaches the guest behind the tap."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What the guest may reach. The node, other sandboxes and the fixed denied networks are never reachable."""

    allow_internet: bool = True
    allow: tuple[IPv4Network, ...] = ()
    deny: tuple[IPv4Network, ...] = ()
    allow_domains: tuple[str, ...] = ()
    """`example.com`, `*.example.com` or `*`, in lower case: what else the guest may ask for by HTTP on port 80 and by
    TLS on port 443. With any, the guest may ask for names too."""
    name_service: bool = True
    """Whether a guest that may reach domains or the internet may ask the node for names."""
    header_rules: tuple[HeaderRule, ...] = ()
    """At most one a domain. They let nothing pass by themselves."""
    tunnel: Tunnel | None = None
    """How TCP leaves that the rest of the policy lets pass. None: from this node."""
    revision: str = ""
    """What whoever made it calls it. The switch has no use for that."""


class Switch(Protocol):
    """Owns the taps of one node. Raises `NetworkFailure`."""

    async def start(self) -> None:
        """Prepare the node: programs loaded, maps pinned, existing taps adopted. Safe to repeat."""
        ...

    async def create_tap(self) -> Tap:
        """Make a tap with a free address, its programs attached and dropping. Costs milliseconds: never on create."""
        ...

    def open_tap(self, tap: Tap) -> int:
        """Return a descriptor for a VMM to inherit. The caller closes its copy."""
        ...

    async def admit(self, tap: Tap, sandbox_id: SandboxId, policy: EgressPolicy) -> None:
        """Let the guest behind `tap` talk, under `policy`. Replaces an earlier admission atomically."""
        ...

    def trusted_certificate(self, sandbox_id: SandboxId) -> str:
        """Return, as PEM, the authority by which the names of the sandbox's header rules answer in its guest.

        Always the same for a sandbox on this node, and another for each sandbox. Its guest is to trust it before header
        rules come into force.
        """
        ...

    async def revoke(self, tap: Tap) -> None:
        """Stop all traffic of the tap and reset what was open: the node's own connections to its address are aborted.

        Safe to repeat; the tap may be admitted again afterwards for another sandbox. Absent taps are success.
        """
        ...

    async def delete_tap(self, tap: Tap) -> None:
        """Remove the device and all that belongs to it. Absent taps are success."""
        ...

    async def taps(self) -> tuple[Tap, ...]:
        """Return every tap of ours on this node, also those of a former Cubelet."""
        ...

    async def reap(self) -> None:
        """Forget flows that ended or went silent, and learn addresses the node got. To be called once a minute."""
        ...

    async def drops(self) -> dict[DropReason, int]:
        """Return packets dropped since the maps were made, by reason."""
        ...
