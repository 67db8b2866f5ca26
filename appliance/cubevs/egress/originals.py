"""Where guests sent what CubeVS diverted to the proxy, as its programs noted it."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

import structlog

from appliance.cubevs.kernel import BpfMap
from appliance.cubevs.maps import Destination, DivertedKey, diverted_pin

log = structlog.get_logger()


class Originals(Protocol):
    def destination(self, guest: IPv4Address, guest_port: int, proxy_port: int) -> Destination | None:
        """Return where the guest sent a connection; None where that is not known, and it can be judged by name only."""
        ...


class DivertedFlows:
    """Looks into the switch's map of diverted flows, and needs no capability for that. See `Originals`."""

    def __init__(self, bpffs: Path) -> None:
        self._pin = diverted_pin(bpffs)
        self._readable = True

    def destination(self, guest: IPv4Address, guest_port: int, proxy_port: int) -> Destination | None:
        try:
            # Anew each time, for some microseconds: a map that a restarted Cubelet made in its place is another.
            flows = BpfMap.open(self._pin, read_only=True)
            try:
                found = flows.get(DivertedKey(guest, guest_port, proxy_port).pack())
            finally:
                flows.close()
        except OSError as error:
            if self._readable:  # once: guests decide how often
                log.error("diverted_flows_unreadable", pin=str(self._pin), error=str(error))
            self._readable = False
            return None
        self._readable = True
        return None if found is None else Destination.unpack(found)
