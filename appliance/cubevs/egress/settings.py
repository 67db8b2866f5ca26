"""Settings of the egress proxy, from `/etc/cube/cubevs-egress.toml`. Durations are seconds."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pydantic import Field

from appliance.common.settings import Settings
from appliance.cubevs.egress.rule_files import DEFAULT_DIRECTORY
from appliance.cubevs.maps import DEFAULT_BPFFS


class EgressSettings(Settings):
    address: IPv4Address = IPv4Address("10.88.0.1")
    """The node's own address on the sandbox network: its first. CubeVS diverts to there."""
    dns_address: IPv4Address = IPv4Address("10.88.0.1")
    """Name server, UDP and TCP port 53: the one that guests ask, so that both get the same answers."""
    bpffs: Path = DEFAULT_BPFFS
    """Where CubeVS pins its map of what it diverts, and lets this service read that."""
    rules: Path = DEFAULT_DIRECTORY
    """Where Cubelet publishes what sandboxes may reach."""
    permitted_networks: tuple[IPv4Network, ...] = ()
    """Private networks that an allowed name, and that of a sandbox's SOCKS5 proxy, may lead to, such as an internal
    registry's. Others are refused."""
    allow_ech: bool = False
    """Whether to take a ClientHello with an encrypted one inside, by the name that is outside. Browsers send a dummy of
    it to everybody; a real one can hide another name of the same provider."""
    trusted_certificates: Path | None = None
    """PEM file of authorities that are believed beside the node's own, where requests get headers by TLS: such as an
    internal registry's. Read at the start."""
    connections: int = Field(default=4096, ge=1)
    """At one time, of all sandboxes. Each may cost some 256 KiB of memory."""
    connections_per_sandbox: int = Field(default=256, ge=1)
    request_s: float = Field(default=10, gt=0)
    """From accepting a connection to knowing which name it is for."""
    connect_s: float = Field(default=5, gt=0)
    """For each of the name's addresses that is tried, and again for TLS where requests get headers."""
    tunnel_s: float = Field(default=15, gt=0)
    """For a tenant's SOCKS5 proxy to be reached and to reach a destination."""
    idle_s: float = Field(default=600, gt=0)
    """Silence of both sides after which a connection is cut."""
    recheck_s: float = Field(default=0.25, gt=0)
    """How soon a changed rule cuts what it no longer allows."""
    socket: Path = Path("/run/cube/cubevs-egress/api.sock")
    """Health and metrics."""
    log_level: str = "info"
