"""What one sandbox may ask the proxy for. Pure: names and addresses in, a decision out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from appliance.cubevs.base import HARD_DENIED_NETWORKS
from appliance.domain.egress import HeaderRule, Tunnel

_MAX_NAME: Final = 253
# The last label is no number: what reads as an address is none of a name's business.
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)*[a-z](?:[a-z0-9-]{0,62})")


class SandboxRules(BaseModel):
    """The rules as Cubelet publishes them. Readable by the neighbouring releases: unknown fields are newer ones."""

    # What cannot be read is told without what it is: values of headers are secrets.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    version: Literal[1] = 1
    sandbox_id: str
    allow_internet: bool = False
    allow: tuple[IPv4Network, ...] = ()
    deny: tuple[IPv4Network, ...] = ()
    allow_domains: tuple[str, ...]
    tunnel: Tunnel | None = Field(default=None, repr=False)
    """How all that passes leaves. None: from this node."""
    sandbox_network: IPv4Network
    """Where the sandboxes of this node are, none of which may be reached."""
    denied_networks: tuple[IPv4Network, ...] = ()
    """What the node's operator denies to all sandboxes."""
    header_rules: tuple[HeaderRule, ...] = Field(default=(), repr=False)
    """At most one a domain."""
    authority_key: str = Field(default="", repr=False)
    """As `authority.sandbox_key` returns it, in hex. Empty where there are no header rules."""

    def header_rule(self, name: str) -> HeaderRule | None:
        """Return what is added to requests for just this name. `name` is as `host_name` returns it."""
        return next((rule for rule in self.header_rules if rule.domain == name), None)

    def allows_name(self, name: str) -> bool:
        """`name` is as `host_name` returns it. `*.example.com` is every name below `example.com`, not itself."""
        return any(
            pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
            for pattern in self.allow_domains
        )

    def allows_by_address(self, address: IPv4Address, *, node_addresses: Collection[IPv4Address]) -> bool:
        """May the guest reach `address` whatever it asks for there? Decides as the programs do (policy.h)."""
        never = (*HARD_DENIED_NETWORKS, self.sandbox_network, *self.denied_networks)
        if address in node_addresses or _is_in(address, never):
            return False
        if _is_in(address, self.allow):
            return True
        return self.allow_internet and not _is_in(address, self.deny)

    def allows_address(
        self, address: IPv4Address, *, node_addresses: Collection[IPv4Address], permitted: Iterable[IPv4Network]
    ) -> bool:
        """May the proxy connect to `address` for this sandbox?

        `permitted` are networks that the operator opened to the proxy though they are private or denied. What the
        tenant denies does not count: a name that is allowed beats that, as an address does.
        """
        never = (*HARD_DENIED_NETWORKS, self.sandbox_network)
        if address in node_addresses or _is_in(address, never):
            return False
        return _is_in(address, permitted) or (address.is_global and not _is_in(address, self.denied_networks))


def _is_in(address: IPv4Address, networks: Iterable[IPv4Network]) -> bool:
    return any(address in network for network in networks)


def host_name(text: str) -> str | None:
    """Return a DNS name in the form that rules have: lower case, no final dot. None for an address and all else."""
    name = text.lower().removesuffix(".")
    return name if text.isascii() and len(name) <= _MAX_NAME and _NAME.fullmatch(name) else None
