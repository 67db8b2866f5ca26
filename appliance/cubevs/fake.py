"""A switch in memory, for tests of what stands on one. It obeys the contract suite that the real one obeys."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from appliance.cubevs.base import DropReason, EgressPolicy, Tap
from appliance.cubevs.egress import authority
from appliance.cubevs.egress.seed import SEED_BYTES
from appliance.cubevs.taps import tap_address, tap_name
from appliance.domain.errors import NetworkFailure
from appliance.domain.ids import SandboxId


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may talk through a tap, and where to."""

    sandbox_id: SandboxId
    policy: EgressPolicy


@dataclass(frozen=True, slots=True)
class _Port:
    tap: Tap
    admission: Admission | None = None


class FakeSwitch:
    """See `base.Switch`. `admission` tells what a guest may do now; descriptors are of /dev/null."""

    def __init__(self, network: IPv4Network = IPv4Network("10.88.0.0/16")) -> None:  # noqa: B008 - immutable
        self._network = network
        self._ports: dict[int, _Port] = {}
        self._next_ifindex = 1
        self._started = False
        self._seed = os.urandom(SEED_BYTES)

    async def start(self) -> None:
        self._started = True

    async def create_tap(self) -> Tap:
        self._require_started()
        names = {port.tap.name for port in self._ports.values()}
        index = next(i for i in range(1, len(names) + 2) if tap_name(i) not in names)
        self._next_ifindex += 1
        tap = Tap(tap_name(index), self._next_ifindex, tap_address(self._network, index))
        self._ports[tap.ifindex] = _Port(tap)
        return tap

    def open_tap(self, tap: Tap) -> int:
        self._port(tap)
        fd = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(fd, True)
        return fd

    async def admit(self, tap: Tap, sandbox_id: SandboxId, policy: EgressPolicy) -> None:
        self._ports[tap.ifindex] = replace(self._port(tap), admission=Admission(sandbox_id, policy))

    def trusted_certificate(self, sandbox_id: SandboxId) -> str:
        self._require_started()
        return authority.Authority(sandbox_id, authority.sandbox_key(self._seed, sandbox_id)).certificate()

    async def revoke(self, tap: Tap) -> None:
        self._require_started()
        if tap.ifindex in self._ports:
            self._ports[tap.ifindex] = replace(self._port(tap), admission=None)

    async def delete_tap(self, tap: Tap) -> None:
        self._require_started()
        self._ports.pop(tap.ifindex, None)

    async def taps(self) -> tuple[Tap, ...]:
        return tuple(sorted((port.tap for port in self._ports.values()), key=lambda tap: tap.address))

    async def reap(self) -> None:
        self._require_started()

    async def drops(self) -> dict[DropReason, int]:
        self._require_started()
        return dict.fromkeys(DropReason, 0)

    def admission(self, tap: Tap) -> Admission | None:
        """Return who is behind `tap`; None while nobody is."""
        return self._port(tap).admission

    def _require_started(self) -> None:
        if not self._started:
            raise NetworkFailure("CubeVS is not started")

    def _port(self, tap: Tap) -> _Port:
        self._require_started()
        port = self._ports.get(tap.ifindex)
        if port is None or port.tap != tap:
            raise NetworkFailure(f"{tap.name} is no tap of this node")
        return port
