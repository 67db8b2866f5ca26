"""What the egress proxy does for one sandbox beside letting pass: the headers it adds and the way out it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_FRAMING: Final = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_FRAMING_PREFIX: Final = "proxy-"


def is_framing(name: str) -> bool:
    """Does a header say where a request begins, ends and goes? Another than the client's makes two requests of one."""
    return name.lower() in _FRAMING or name.lower().startswith(_FRAMING_PREFIX)


@dataclass(frozen=True, slots=True)
class HeaderRule:
    domain: str
    """One name in lower case, without a final dot."""
    headers: Mapping[str, str] = field(repr=False)
    """They replace what the guest sends under the same names."""
    refusal: str = ""
    """Why no request for the domain may pass; empty where one may."""


@dataclass(frozen=True, slots=True)
class TunnelTls:
    server_name: str
    ca_cert: str | None = None
    """PEM certificates in place of the node's trust store."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A SOCKS5 proxy that all TCP of the guest leaves by."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    tls: TunnelTls | None = None
