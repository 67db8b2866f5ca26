"""Keepers: small machines of the node's own, each with one volume that no sandbox has, for its content to be served.

The host never looks into a volume. A keeper has the agent and nothing else: its root is the agent's disk, nobody but
this node talks to it, and it reaches nobody. It ends when nobody has called for a while, or as soon as a sandbox wants
its volume. One whose Cubelet died is destroyed by the next one, like every machine that was still being prepared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from appliance.clients.guest import GuestClient
from appliance.common.supervisor import Supervisor
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import RecordStore, Stage, VmRecord
from appliance.cubelet.services.booting import Boots
from appliance.cubelet.services.guest_disks import guest_disks, volume_slots
from appliance.cubelet.services.machines import Machines, behind, new_vm_id
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.volume_store import Volume
from appliance.domain.errors import CubeError, GuestFailure, NodeFailure, NoKeeper, VolumeInUse
from appliance.domain.ids import BuildId, TemplateId, VolumeId
from appliance.hypervisor.base import Confinement, Hypervisor, VmSpec
from appliance.storage.base import DiskStore

log = structlog.get_logger()

_KEEPER = "keeper"
"""Stands in for the template and the build in its record."""
_MOUNT = "/volume"
_UPPER_MIB = 16
_CALLS_GRACE_S = 5
"""For calls under way when a sandbox wants the volume."""
RELEASE_DEADLINE = timedelta(seconds=3)
"""A guest that does not answer must not hold up the end of its machine."""


@dataclass(slots=True)
class _Machine:
    guest: GuestClient
    address: IPv4Address
    resources: AsyncExitStack
    """Frees all of it."""


@dataclass(slots=True)
class _Keeper:
    volume: Volume
    starting: asyncio.Task[None] | None = None
    machine: _Machine | None = None
    failure: CubeError | None = None
    """Why there is no machine."""
    calls: int = 0
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.TimerHandle | None = None
    ending: asyncio.Task[None] | None = None


class Keepers:
    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        disks: DiskStore,
        taps: TapPool,
        records: RecordStore,
        machines: Machines,
        boots: Boots,
        agent_disk: Path,
        supervisor: Supervisor,
        metrics: CubeletMetrics,
        most: int,
        memory_mib: int,
        idle: timedelta,
        boot_deadline: timedelta,
        init_deadline: timedelta,
    ) -> None:
        self._hypervisor = hypervisor
        self._disks = disks
        self._taps = taps
        self._records = records
        self._machines = machines
        self._boots = boots
        self._agent_disk = agent_disk
        self._supervisor = supervisor
        self._metrics = metrics
        self._most = most
        self._memory_mib = memory_mib
        self._idle = idle
        self._boot_deadline = boot_deadline
        self._init_deadline = init_deadline
        self._keepers: dict[VolumeId, _Keeper] = {}

    @asynccontextmanager
    async def serving(self, volume: Volume) -> AsyncIterator[IPv4Address]:
        """The address of a guest that has the volume mounted, and keeps it at least for the block.

        Raises NoKeeper where too many are busy, and what fails with the start of one. Not for one that is ending.
        """
        keeper = self._keepers.get(volume.volume_id) or self._begin(volume)
        keeper.calls += 1
        keeper.quiet.clear()
        if keeper.idle is not None:
            keeper.idle.cancel()
        try:
            if keeper.starting is not None:
                await asyncio.wait({keeper.starting})
            if keeper.machine is None:
                # Taken away before it was up, unless it failed.
                raise keeper.failure or VolumeInUse(volume.volume_id)
            yield keeper.machine.address
        finally:
            keeper.calls -= 1
            if keeper.calls == 0:
                self._rest(keeper)

    def is_ending(self, volume_id: VolumeId) -> bool:
        keeper = self._keepers.get(volume_id)
        return keeper is not None and keeper.ending is not None

    async def end(self, volume_id: VolumeId) -> None:
        """Unmount a volume, and end the machine that has it. Calls under way get a moment. Safe to repeat."""
        keeper = self._keepers.get(volume_id)
        if keeper is not None:
            await asyncio.wait({self._end(keeper)})

    async def close(self) -> None:
        """End every keeper."""
        await asyncio.gather(*(self.end(volume_id) for volume_id in tuple(self._keepers)))

    def _begin(self, volume: Volume) -> _Keeper:
        before = self._make_room()
        keeper = self._keepers[volume.volume_id] = _Keeper(volume)
        keeper.starting = self._supervisor.spawn(self._start(keeper, before), name=f"keep-{volume.volume_id}")
        self._metrics.keepers.set(len(self._keepers))
        return keeper

    def _make_room(self) -> asyncio.Task[None] | None:
        """Return what must have ended before another keeper may start. Raises NoKeeper."""
        running = [keeper for keeper in self._keepers.values() if keeper.ending is None]
        if len(running) < self._most:
            return None
        # The one that has been without a call for longest: each call puts its keeper last.
        idle = next((keeper for keeper in running if keeper.calls == 0), None)
        if idle is None:
            raise NoKeeper(len(running))
        return self._end(idle)

    def _rest(self, keeper: _Keeper) -> None:
        keeper.quiet.set()
        if keeper.ending is not None:
            return
        volume_id = keeper.volume.volume_id
        if keeper.machine is None:
            self._end(keeper)
            return
        self._keepers[volume_id] = self._keepers.pop(volume_id)
        loop = asyncio.get_running_loop()
        keeper.idle = loop.call_later(self._idle.total_seconds(), self._end, keeper)

    def _end(self, keeper: _Keeper) -> asyncio.Task[None]:
        if keeper.ending is None:
            name = f"put-away-{keeper.volume.volume_id}"
            keeper.ending = self._supervisor.spawn(self._put_away(keeper), name=name)
        return keeper.ending

    async def _put_away(self, keeper: _Keeper) -> None:
        try:
            if keeper.idle is not None:
                keeper.idle.cancel()
            if keeper.starting is not None and not keeper.starting.done():
                # Nobody shall wait for a machine to boot that is not wanted any more.
                keeper.starting.cancel()
                await asyncio.wait({keeper.starting})
            with suppress(TimeoutError):
                async with asyncio.timeout(_CALLS_GRACE_S if keeper.calls else 0):
                    await keeper.quiet.wait()
            machine, keeper.machine = keeper.machine, None
            if machine is not None:
                await release(machine.guest, volume_ids=(keeper.volume.volume_id,))
                await machine.resources.aclose()
        finally:
            del self._keepers[keeper.volume.volume_id]
            self._metrics.keepers.set(len(self._keepers))

    async def _start(self, keeper: _Keeper, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            keeper.machine = await self._boot(keeper.volume)
        except CubeError as error:
            log.warning("keeper_failed", volume_id=keeper.volume.volume_id, error=error.message)
            keeper.failure = error
        except Exception as error:
            # Its callers would take it for one that a sandbox has taken away.
            keeper.failure = NodeFailure(
                f"the volume cannot be served: {type(error).__name__}; see `journalctl -u cubelet`"
            )
            raise

    async def _boot(self, volume: Volume) -> _Machine:
        async with AsyncExitStack() as undo:
            tap = await self._taps.acquire()
            vm_id = new_vm_id()
            record = VmRecord(
                vm_id=vm_id,
                template_id=TemplateId(_KEEPER),
                build_id=BuildId(_KEEPER),
                envd_version="",
                boot_id=self._machines.boot_id,
                stage=Stage.PREPARING,
                **behind(tap),
            )
            await self._machines.create_record(record, tap)
            # From here on one call frees tap, process, directories and record, now or after a restart.
            undo.push_async_callback(self._machines.destroy_newest, vm_id)
            upper = self._records.upper(vm_id)
            await self._disks.create_upper(upper, size_mib=_UPPER_MIB)
            memory = self._records.memory(vm_id, _KEEPER)
            memory.parent.mkdir(mode=0o700)
            uid = self._machines.uid_of(tap)
            spec = VmSpec(
                vm_id=vm_id,
                vcpus=1,
                memory_mib=self._memory_mib,
                memory_file=memory,
                # It has no image: the agent's disk is its root, too.
                disks=guest_disks(self._agent_disk, upper, (self._agent_disk,)),
                nic=None,
                runtime_dir=self._machines.make_runtime_dir(vm_id),
                confinement=Confinement(uid=uid, gid=uid),
                slots=volume_slots(volume.size_mib, [volume.image]),
            )
            process = await self._boots.boot(spec, tap)
            undo.push_async_callback(self._hypervisor.stop, process)
            record = self._machines.save(record.model_copy(update={"process": process}))
            guest = GuestClient(tap.address)
            undo.push_async_callback(guest.close)
            await guest.wait_healthy(deadline=self._boot_deadline)
            identity = self._machines.identity(record, volume_paths=(_MOUNT,))
            await guest.init(identity, deadline=self._init_deadline)
            log.info("keeper_started", volume_id=volume.volume_id, vm_id=vm_id)
            return _Machine(guest, tap.address, undo.pop_all())


async def release(guest: GuestClient, *, volume_ids: tuple[VolumeId, ...]) -> None:
    """Let a guest write its volumes to their disks, before its machine is ended: its caches end with it.

    Where it does not answer, what its programs did not flush is lost, as in a power cut.
    """
    try:
        await guest.release_volumes(deadline=RELEASE_DEADLINE)
    except GuestFailure as error:
        log.warning("volumes_not_released", volume_ids=volume_ids, error=error.message)
