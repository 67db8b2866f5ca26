"""Resume: a paused sandbox runs again, from what was saved of it.

What is saved is copied, never used up: until the sandbox is recorded as running, it is paused, whatever fails.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from appliance.common.failpoints import reach
from appliance.contracts.node import OnTimeout
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import UPPER, RecordStore, Stage, VmRecord
from appliance.cubelet.services.machines import Machine, Machines, behind, meta_of, under
from appliance.cubelet.services.pausing import VM, Pausing
from appliance.cubelet.services.registry import Registry, sandbox_of
from appliance.cubelet.services.running import Running
from appliance.cubelet.services.taps import TapPool
from appliance.cubevs.base import EgressPolicy, Tap
from appliance.domain.errors import SandboxTransitioning, VmmFailure
from appliance.domain.ids import SandboxId
from appliance.hypervisor.base import Snapshot
from appliance.storage.base import DiskStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What CubeMaster asks of a sandbox that is to run again."""

    end_at: datetime
    on_timeout: OnTimeout
    memory: bool
    access_token: str | None
    egress: EgressPolicy


class Resuming:
    def __init__(
        self,
        *,
        disks: DiskStore,
        taps: TapPool,
        machines: Machines,
        records: RecordStore,
        registry: Registry,
        running: Running,
        pausing: Pausing,
        metrics: CubeletMetrics,
        restores: asyncio.Semaphore,
        flush_deadline: timedelta,
        boot_id: str,
    ) -> None:
        self._disks = disks
        self._taps = taps
        self._machines = machines
        self._records = records
        self._registry = registry
        self._running = running
        self._pausing = pausing
        self._metrics = metrics
        self._restores = restores
        self._flush_deadline = flush_deadline
        self._boot_id = boot_id

    async def resume(self, sandbox_id: SandboxId, wanted: Wanted) -> VmRecord:
        """Return the sandbox, running, once its guest has acknowledged that. A running one is success."""
        async with self._registry.locks.hold(sandbox_id):
            record = self._registry.get(sandbox_id)
            match record.stage:
                case Stage.RUNNING:
                    return record
                case Stage.PAUSING | Stage.RESUMING:
                    # It is saved, but what is left of it could not be freed before.
                    record = await self._pausing.finish(sandbox_id, record)
                case Stage.ENDING:
                    raise SandboxTransitioning(sandbox_id, "killed")
            memory = wanted.memory and not record.filesystem_only
            with self._metrics.keeping("resume", memory=memory):
                async with self._restores:
                    machine = await self._resume(sandbox_id, record, wanted, memory=memory)
            self._running.begin(machine)
            reach("resume:recorded")
            await asyncio.to_thread(self._forget_saved, machine.record)
        log.info("sandbox_resumed", sandbox_id=sandbox_id, memory=memory)
        return machine.record

    async def _resume(self, sandbox_id: SandboxId, paused: VmRecord, wanted: Wanted, *, memory: bool) -> Machine:
        saved = self._records.saved(paused.vm_id)
        async with AsyncExitStack() as undo:
            tap = await self._taps.acquire()
            record = paused.model_copy(
                update={"stage": Stage.RESUMING, "boot_id": self._boot_id, **behind(tap)},
            )
            undo.push_async_callback(self._back_to_paused, sandbox_id, record)
            self._hold(sandbox_id, self._machines.save(record))
            reach("resume:intended")
            await self._disks.clone_upper(saved / UPPER, self._records.upper(record.vm_id))
            reach("resume:disk")
            machine, environment = await self._restore(record, tap, memory=memory)
            undo.push_async_callback(machine.guest.close)
            reach("resume:restored")
            identity = self._machines.identity(
                machine.record,
                sandbox_id=sandbox_id,
                access_token=wanted.access_token,
                env_vars=environment,
                default_user=meta_of(record).default_user,
                default_workdir=meta_of(record).default_workdir,
                machine_id=None,
                inherits_env=True,
            )
            await self._machines.hand_over(machine, identity, wanted.egress)
            if not memory:
                await self._machines.start_services(machine, wanted.access_token)
            reach("resume:ready")
            if not await self._machines.alive(machine):
                raise VmmFailure(f"the VMM of sandbox '{sandbox_id}' ended while it was resumed; try again")
            machine.record = self._machines.save(self._as_running(machine.record, wanted))
            undo.pop_all()
        return machine

    async def _restore(self, record: VmRecord, tap: Tap, *, memory: bool) -> tuple[Machine, dict[str, str]]:
        """Return the VM, paused, and the variables that its guest must be told."""
        if memory:
            return await self._machines.restore(record, tap, self._saved_snapshot(record)), {}
        environment = self._records.read_saved(record.vm_id).environment
        if not record.filesystem_only:
            # What its programs wrote and what they were given may be in its RAM alone.
            environment = await self._machines.flush(
                record, tap, self._saved_snapshot(record), deadline=self._flush_deadline
            )
        record, base = await self._machines.boot(record, tap)
        machine = await self._machines.restore(record, tap, base)
        return machine, environment if environment is not None else dict(meta_of(record).env)

    def _saved_snapshot(self, record: VmRecord) -> Snapshot:
        vm = self._records.saved(record.vm_id) / VM
        changed_pages = vm / "changed-pages"
        return replace(
            self._machines.base_of(record),
            device_state=vm / "device-state",
            # Where they could not be told apart, the state of the devices has all RAM.
            changed_pages=changed_pages if changed_pages.exists() else None,
        )

    def _as_running(self, record: VmRecord, wanted: Wanted) -> VmRecord:
        sandbox = sandbox_of(record).model_copy(
            update={
                "end_at": wanted.end_at,
                "on_timeout": wanted.on_timeout,
                **under(wanted.egress),
            }
        )
        return record.model_copy(
            update={
                "stage": Stage.RUNNING,
                "generation": record.generation + 1,
                "sandbox": sandbox,
                "paused_at": None,
                "filesystem_only": False,
            }
        )

    def _forget_saved(self, record: VmRecord) -> None:
        # In this order: after a power cut, a sandbox that went on must not come back as it was before.
        self._records.save_durably(record)
        self._records.forget_saved(record.vm_id)
        self._records.sweep(record)

    def _hold(self, sandbox_id: SandboxId, record: VmRecord) -> None:
        self._registry.paused[sandbox_id] = record

    async def _back_to_paused(self, sandbox_id: SandboxId, record: VmRecord) -> None:
        """Free all that the attempt took."""
        newest = self._records.read(record.vm_id)
        process = newest.process if newest is not None else None
        await asyncio.shield(self._pausing.finish(sandbox_id, record.model_copy(update={"process": process})))
