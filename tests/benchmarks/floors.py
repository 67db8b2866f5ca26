"""What creates are compared with: the same template through the bare driver, on a plain tap, with nobody around it.

C1 cold boot   kernel to the agent's first answer: what a create would cost without snapshots
F0 restore     QEMU, device state, the guest's first reply: the least an on-demand create can cost
F1 claim       continue a warmed, stopped machine, the guest's first reply: the least a pool hit can cost
full save      all of a machine's RAM to a file, durably: what a pause would cost that cannot tell changed pages

The reply is always POST /init acknowledged, for no sandbox is one before that.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from appliance.clients.guest import GuestClient, Identity
from appliance.cubelet import guest_image
from appliance.cubelet.services.guest_disks import guest_disks, volume_slots
from appliance.cubelet.services.machines import WARM_UP
from appliance.cubelet.services.template_store import ReadyTemplate
from appliance.cubevs.base import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC
from appliance.cubevs.taps import open_tap
from appliance.domain.ids import VmId
from appliance.domain.network import AGENT_PORT
from appliance.hypervisor.base import Accelerator, BootSource, Hypervisor, Nic, VmProcess, VmSpec
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.scopes.session import SessionScopes
from appliance.storage.disks import LocalDiskStore
from tests.support.netns import NetworkNamespace

_DEADLINE = timedelta(seconds=120)
_WARM_UPS = 3
"""Rounds after which another one makes no difference: a floor shall not depend on how well Cubelet warms its pool."""
_WAIT_S = 0.5
"""For which the warmed machine is stopped: its clock is then wrong, as that of every VM that has waited in a pool."""
_KNOCK_S = 0.05
"""How long a connection to a guest that may still be booting is waited for; also what C1 is accurate to."""


class Floors:
    """Measures on a tap in `namespace`, one machine at a time: a guest's address is the same in every guest."""

    def __init__(
        self,
        template: ReadyTemplate,
        guest_dir: Path,
        accelerator: Accelerator,
        namespace: NetworkNamespace,
        work: Path,
    ) -> None:
        image = guest_image.load(guest_dir)
        if template.snapshot is None:
            raise ValueError(f"build {template.build_id} has no RAM to restore")
        self._template = template
        self._snapshot = template.snapshot
        self._source = BootSource(image.kernel, image.initramfs, image.cmdline)
        self._namespace = namespace
        self._work = work
        self._driver: Hypervisor = QemuHypervisor(accelerator=accelerator, scopes=SessionScopes())
        self._disks = LocalDiskStore(work / "uppers")
        self._numbers = count(1)

    async def close(self) -> None:
        await self._driver.close()

    async def cold_boot(self) -> float:
        """Return ms from spawn to the agent's first answer, on an empty disk."""
        with self._namespace.entered():
            async with self._machine(boots=True) as spec:
                begun = time.perf_counter()
                vm = await self._driver.boot(spec, self._source, deadline=_DEADLINE)
                try:
                    await _first_answer()
                    return _ms_since(begun)
                finally:
                    await self._driver.stop(vm)

    async def restore(self) -> float:
        """Return ms from spawn to the acknowledged identity of a clone. Disk and tap are there already."""
        with self._namespace.entered():
            async with self._machine() as spec, _agent() as agent:
                begun = time.perf_counter()
                vm = await self._driver.clone(spec, self._snapshot, deadline=_DEADLINE)
                try:
                    return await self._resumed(vm, agent, begun)
                finally:
                    await self._driver.stop(vm)

    async def claim(self) -> float:
        """Return ms from `cont` to the acknowledged identity of a machine that has done all this before."""
        with self._namespace.entered():
            async with self._machine() as spec, _agent() as agent:
                vm = await self._driver.clone(spec, self._snapshot, deadline=_DEADLINE)
                try:
                    await self._driver.resume(vm, deadline=_DEADLINE)
                    for _ in range(_WARM_UPS):
                        await agent.init(_identity(), deadline=_DEADLINE)
                        await agent.run(WARM_UP, deadline=_DEADLINE)
                    await self._driver.pause(vm, deadline=_DEADLINE)
                    await asyncio.sleep(_WAIT_S)
                    return await self._resumed(vm, agent, time.perf_counter())
                finally:
                    await self._driver.stop(vm)

    async def full_save(self) -> float:
        """Return ms in which a clone that runs is stopped and saved by QEMU itself, disk aside."""
        with self._namespace.entered():
            async with self._machine() as spec, _agent() as agent:
                vm = await self._driver.clone(spec, self._snapshot, deadline=_DEADLINE)
                try:
                    await self._resumed(vm, agent, time.perf_counter())
                    begun = time.perf_counter()
                    await self._driver.save(vm, self._snapshot, spec.runtime_dir / "saved", deadline=_DEADLINE)
                    return _ms_since(begun)
                finally:
                    await self._driver.stop(vm)
                    # A save that failed left none, and its own error is the one to see.
                    shutil.rmtree(spec.runtime_dir / "saved", ignore_errors=True)

    async def _resumed(self, vm: VmProcess, agent: GuestClient, begun: float) -> float:
        await self._driver.resume(vm, deadline=_DEADLINE)
        await agent.init(_identity(), deadline=_DEADLINE)
        return _ms_since(begun)

    @asynccontextmanager
    async def _machine(self, *, boots: bool = False) -> AsyncIterator[VmSpec]:
        """Yield a machine that only needs to be started, and remove what it leaves."""
        async with AsyncExitStack() as stack:
            tap_fd = open_tap("tap0")
            stack.callback(os.close, tap_fd)
            self._namespace.ip(f"link set tap0 address {GATEWAY_MAC} up")
            self._namespace.ip(f"address add {GATEWAY_ADDRESS}/30 dev tap0")
            self._namespace.ip(f"neigh replace {GUEST_ADDRESS} lladdr {GUEST_MAC} dev tap0 nud permanent")
            meta = self._template.meta
            directory = self._work / f"floor-{next(self._numbers)}"
            directory.mkdir()
            upper = directory / "upper.img"
            if boots:
                await self._disks.create_upper(upper, size_mib=meta.disk_size_mib)
            else:
                await self._disks.clone_upper(self._template.upper, upper)
            # One at a time: these are large where the file system has no holes left to share.
            stack.callback(upper.unlink)
            stack.callback((directory / "memory").unlink, missing_ok=True)
            yield VmSpec(
                vm_id=VmId(f"{self._namespace.name}-{directory.name}"),
                vcpus=meta.vcpus,
                memory_mib=meta.memory_mib,
                memory_file=directory / "memory",
                disks=guest_disks(self._template.agent_disk, upper, self._template.layers),
                slots=volume_slots(meta.volume_mib),
                nic=Nic(tap_fd=tap_fd, mac=GUEST_MAC),
                runtime_dir=directory,
                confinement=None,
            )


@asynccontextmanager
async def _agent() -> AsyncIterator[GuestClient]:
    agent = GuestClient(GUEST_ADDRESS)
    try:
        yield agent
    finally:
        await agent.close()


def _identity() -> Identity:
    """Return one that the guest has not had: the names are written, as for every new owner."""
    name = secrets.token_hex(8)
    return Identity(
        sandbox_id=name,
        template_id="floor",
        hostname=name,
        machine_id=secrets.token_hex(16),
        entropy=os.urandom(64),
        timestamp=datetime.now(UTC),
        access_token=None,
        env_vars={},
    )


async def _first_answer() -> None:
    """Return when the agent of a booting guest answers. It has no other way to tell, so knock."""
    async with asyncio.timeout(_DEADLINE.total_seconds()):
        while True:
            try:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(str(GUEST_ADDRESS), AGENT_PORT), _KNOCK_S
                )
            except (TimeoutError, OSError):
                # Refused while the guest has an address and no agent yet: that answer comes at once.
                await asyncio.sleep(_KNOCK_S / 10)
                continue
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: guest\r\n\r\n")
                if (await reader.readline()).startswith(b"HTTP/1.1 204"):
                    return
            finally:
                writer.close()


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
