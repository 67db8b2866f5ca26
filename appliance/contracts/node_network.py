"""What a node enforces of a sandbox's network rules. CubeMaster has put secrets and tokens in their places by then."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Wire(BaseModel):
    # Nodes and masters of neighbouring releases talk to each other: unknown fields are newer ones.
    model_config = ConfigDict(extra="ignore", frozen=True)


class HeaderRule(_Wire):
    """What is added to each request for a domain, by HTTP on port 80 and by TLS on port 443."""

    domain: str
    """One name, as `host_name` of the egress proxy returns it. Where it may be reached is not said here."""
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """They replace what the guest sends under the same names."""
    refusal: str = ""
    """Why no request for the domain may pass: a secret or a token that its headers name is not there. Else empty."""


class TunnelTls(_Wire):
    server_name: str
    """What the certificate is checked against, and the SNI."""
    ca_cert: str | None = None
    """PEM certificates in place of the node's trust store."""


class Tunnel(_Wire):
    """A SOCKS5 proxy of the tenant's that all TCP of the guest leaves by, as far as the other rules let it pass."""

    host: str
    """A public IPv4 address, or a name that leads to one."""
    port: int
    username: str = ""
    password: str = Field(default="", repr=False)
    tls: TunnelTls | None = None


class NetworkPolicy(_Wire):
    allow_internet: bool = True
    allow_out: tuple[str, ...] = ()
    """IPv4 addresses and networks in CIDR form that the guest may reach; they beat `deny_out`."""
    deny_out: tuple[str, ...] = ()
    allow_domains: tuple[str, ...] = ()
    """`example.com`, `*.example.com` or `*`: what else the guest may reach, by TLS on port 443 and HTTP on 80."""
    name_service: bool = True
    """Whether a guest that may reach domains or the internet may also ask the node for names."""
    header_rules: tuple[HeaderRule, ...] = ()
    tunnel: Tunnel | None = None
    revision: str = ""
    """What CubeMaster calls these rules. The node says it of a sandbox once they are in force."""
