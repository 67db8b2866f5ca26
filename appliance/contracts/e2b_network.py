"""Public shapes of a sandbox's network rules and workload tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Request(BaseModel):
    # An error shows what was wrong with the request, which must not be a credential.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Transform(_Request):
    headers: dict[str, str] | None = Field(default=None, repr=False)
    """Added to requests. `${e2b.secrets.NAME}` and `${e2b.identity.tokens.NAME}` stand for what no guest ever has."""


class NetworkRule(_Request):
    transform: Transform | None = None


class EgressProxyTls(_Request):
    enabled: bool
    serverName: str | None = None
    caCert: str | None = Field(default=None, repr=False)
    """PEM certificates in place of the node's trust store."""


class EgressProxy(_Request):
    """A SOCKS5 proxy of the caller's own that all TCP of the sandbox leaves by."""

    address: str
    """`host:port`."""
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    tls: EgressProxyTls | None = None


class Egress(_Request):
    """What a sandbox may reach, and what is done to its requests on the way."""

    allowOut: tuple[str, ...] | None = None
    denyOut: tuple[str, ...] | None = None
    dnsServers: tuple[str, ...] | None = None
    """IPv4 addresses of resolvers, beside domains in `allowOut`. Left out: the node's own."""
    egressProxy: EgressProxy | None = None
    rules: dict[str, tuple[NetworkRule, ...]] | None = Field(default=None, repr=False)
    """By domain. They let nothing pass that `allowOut` and `denyOut` do not."""


class Network(Egress):
    allowPublicTraffic: bool = True
    maskRequestHost: str | None = None
    httpsPorts: tuple[int, ...] | None = None
    """Ports whose services speak TLS themselves."""


class NetworkUpdate(Egress):
    """`PUT /sandboxes/{id}/network`: replaces all of these, what is left out included."""

    allow_internet_access: bool | None = None


class IamToken(_Request):
    audience: str = ""
    tokenType: str = ""


class Iam(_Request):
    tokens: dict[str, IamToken] | None = None
    """By the names under which header rules place them."""


class EgressProxyTlsShown(_Answer):
    enabled: bool
    serverName: str | None = None


class EgressProxyShown(_Answer):
    address: str
    username: str | None = None
    tls: EgressProxyTlsShown | None = None


class NetworkShown(_Answer):
    """A sandbox's rules as they were given; no token, password or certificate is among them."""

    allowPublicTraffic: bool = True
    allowOut: tuple[str, ...] | None = None
    denyOut: tuple[str, ...] | None = None
    dnsServers: tuple[str, ...] | None = None
    egressProxy: EgressProxyShown | None = None
    rules: dict[str, tuple[NetworkRule, ...]] | None = Field(default=None, repr=False)
    maskRequestHost: str | None = None
    httpsPorts: tuple[int, ...] | None = None


class JsonWebKey(_Answer):
    kty: str
    crv: str
    x: str
    y: str
    use: str
    alg: str
    kid: str


class JsonWebKeySet(_Answer):
    keys: tuple[JsonWebKey, ...]


class OpenIdConfiguration(_Answer):
    """Of who signs workload tokens: as much as is needed to check one."""

    issuer: str
    jwks_uri: str
    response_types_supported: tuple[Literal["id_token"], ...] = ("id_token",)
    subject_types_supported: tuple[Literal["public"], ...] = ("public",)
    id_token_signing_alg_values_supported: tuple[str, ...]
    claims_supported: tuple[str, ...] = ("iss", "sub", "aud", "iat", "exp", "jti")
