"""The tenant's SOCKS5 proxy as Cubelet publishes it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from appliance.domain.egress import Tunnel, TunnelTls


class _Published(BaseModel):
    # Readable by the neighbouring releases: unknown fields are newer ones.
    model_config = ConfigDict(extra="ignore", frozen=True)


class TunnelTlsRules(_Published):
    """See `domain.egress.TunnelTls`."""

    server_name: str
    ca_cert: str | None = None

    @classmethod
    def of(cls, tls: TunnelTls) -> Self:
        return cls(server_name=tls.server_name, ca_cert=tls.ca_cert)


class TunnelRules(_Published):
    """See `domain.egress.Tunnel`."""

    host: str
    port: int
    username: str = ""
    password: str = Field(default="", repr=False)
    tls: TunnelTlsRules | None = None

    @classmethod
    def of(cls, tunnel: Tunnel) -> Self:
        return cls(
            host=tunnel.host,
            port=tunnel.port,
            username=tunnel.username,
            password=tunnel.password,
            tls=None if tunnel.tls is None else TunnelTlsRules.of(tunnel.tls),
        )
