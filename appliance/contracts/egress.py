"""What a sandbox may reach, and what is done to its requests on the way, between CubeAPI and CubeMaster."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Wire(BaseModel):
    # An error shows what was wrong with the request, which must not be a credential.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Transform(_Wire):
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """Values may name secrets and workload tokens by placeholders."""


class EgressProxyTls(_Wire):
    enabled: bool
    server_name: str = ""
    """What the certificate is checked against. Empty: the host of the address."""


class NewEgressProxyTls(EgressProxyTls):
    ca_cert: str = Field(default="", repr=False)
    """PEM certificates in place of the node's trust store."""


class EgressProxy(_Wire):
    """A SOCKS5 proxy as it is shown."""

    address: str
    """`host:port`."""
    username: str = ""
    tls: EgressProxyTls | None = None


class NewEgressProxy(EgressProxy):
    password: str = Field(default="", repr=False)
    tls: NewEgressProxyTls | None = None


class Egress(_Wire):
    allow_internet: bool = True
    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] | None = None
    """Beside domains in `allow_out`, what resolvers it may reach; None: the node's."""
    rules: dict[str, tuple[Transform, ...]] = Field(default_factory=dict, repr=False)
    """By domain."""
    egress_proxy: NewEgressProxy | None = None


class WorkloadToken(_Wire):
    audience: str
    token_type: str


class SigningKeys(_Wire):
    """What workload tokens are checked with."""

    issuer: str
    keys: tuple[dict[str, str], ...]
    """JSON Web Keys, of which none is private."""
