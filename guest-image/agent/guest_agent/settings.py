"""How one agent is run. Inside a guest every default is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    host: str = "0.0.0.0"
    port: int = 49983
    """0 lets the kernel choose; the agent prints what it got."""
    state_file: Path = Path("/run/cube/agent-state.json")
    marker_directory: Path = Path("/run/e2b")
    heartbeat_fd: int | None = None
    """An eventfd of process 1; see `heartbeat`."""
    init_from: Sequence[IPv4Address] = ()
    """Addresses of the agent's own machine that may send /init all the same."""
    own_machine: bool = True
    """Whether /init sets clock, random numbers and names of the machine, and loopback services are forwarded."""
