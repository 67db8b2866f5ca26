"""Pause: a sandbox becomes files, and costs neither RAM nor processor until it is resumed.

The directory `saved` appears whole and durable, or not at all, and that decides: before, the sandbox goes on running
whatever fails; from then on it is paused, and what is left of its VM is freed, now or after a restart.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.clients.guest import GuestClient
from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.common.threads import in_thread
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import UPPER, RecordStore, Saved, Stage, VmRecord
from appliance.cubelet.services.machines import Machine, Machines
from appliance.cubelet.services.registry import Registry
from appliance.cubelet.services.timers import Timers
from appliance.domain.errors import CubeError, GuestFailure, GuestUnresponsive
from appliance.domain.ids import SandboxId
from appliance.hypervisor.base import Hypervisor
from appliance.hypervisor.deadlines import together
from appliance.hypervisor.new_directory import new_directory
from appliance.storage.base import DiskStore

log = structlog.get_logger()

VM = "vm"
"""Directory in `saved` with the state of the VM."""

_HEALTH_DEADLINE = timedelta(seconds=3)


class Pausing:
    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        disks: DiskStore,
        machines: Machines,
        records: RecordStore,
        registry: Registry,
        timers: Timers,
        clock: Clock,
        metrics: CubeletMetrics,
        save_deadline: timedelta,
        flush_deadline: timedelta,
    ) -> None:
        self._hypervisor = hypervisor
        self._disks = disks
        self._machines = machines
        self._records = records
        self._registry = registry
        self._timers = timers
        self._clock = clock
        self._metrics = metrics
        self._save_deadline = save_deadline
        self._flush_deadline = flush_deadline

    async def pause(
        self, sandbox_id: SandboxId, *, memory: bool, require_healthy: bool = False, if_due: bool = False
    ) -> None:
        """Keep a sandbox as files, `memory` or its disk alone. A paused one is success.

        `if_due`: not where its time has been moved. Raises GuestUnresponsive, and whatever else fails, with the sandbox
        running as before.
        """
        async with self._registry.locks.hold(sandbox_id):
            if sandbox_id in self._registry.paused and self._registry.paused[sandbox_id].stage is Stage.PAUSED:
                return
            if if_due and self._timers.armed(sandbox_id):
                return
            machine = self._registry.live.get(sandbox_id)
            if machine is not None and machine.record.stage is Stage.PAUSING:
                # Saved before, but what was left of it could not be freed then.
                await self.finish(sandbox_id, machine.record)
                return
            machine = self._registry.running(sandbox_id)
            with self._metrics.keeping("pause", memory=memory):
                await self._pause(sandbox_id, machine, memory=memory, require_healthy=require_healthy)
        log.info("sandbox_paused", sandbox_id=sandbox_id, memory=memory)

    async def finish(self, sandbox_id: SandboxId, record: VmRecord) -> VmRecord:
        """Free what is left of a VM that has been saved, and hold it as paused."""
        record = await self._machines.settle(record)
        self.hold(sandbox_id, record)
        return record

    def hold(self, sandbox_id: SandboxId, record: VmRecord) -> None:
        """Take a sandbox for paused."""
        self._timers.cancel(sandbox_id)
        self._registry.live.pop(sandbox_id, None)
        self._registry.paused[sandbox_id] = record

    async def _pause(self, sandbox_id: SandboxId, machine: Machine, *, memory: bool, require_healthy: bool) -> None:
        environment = await self._ask_guest(sandbox_id, machine, memory=memory, require_healthy=require_healthy)
        running = machine.record
        machine.record = self._machines.save(running.model_copy(update={"stage": Stage.PAUSING}))
        try:
            reach("pause:intended")
            # Of the resume before, should its end have been cut short.
            await asyncio.to_thread(self._records.forget_saved, running.vm_id)
            async with new_directory(self._records.saved(running.vm_id)) as saved:
                await self._save(machine, saved, environment)
        except BaseException:
            await asyncio.shield(self._go_on(sandbox_id, machine, running))
            raise
        reach("pause:saved")
        await self.finish(sandbox_id, machine.record)
        reach("pause:recorded")

    async def _ask_guest(
        self, sandbox_id: SandboxId, machine: Machine, *, memory: bool, require_healthy: bool
    ) -> dict[str, str] | None:
        """Return the guest's variables, with its files on its disk, where only that is kept."""
        if memory and not require_healthy:
            return None
        # The connections of before the guest had an owner are closed, and no new one stays.
        guest = GuestClient(machine.tap.address)
        try:
            if memory:
                await guest.check_healthy(deadline=_HEALTH_DEADLINE)
                return None
            return await guest.flush(deadline=self._flush_deadline)
        except GuestFailure as error:
            raise GuestUnresponsive(sandbox_id) from error
        finally:
            await guest.close()

    async def _save(self, machine: Machine, directory: Path, environment: dict[str, str] | None) -> None:
        record = machine.record
        await self._hypervisor.pause(machine.process, deadline=self._save_deadline)
        # Each of the two waits for the host's disk most of the time.
        saving = [self._save_disk(record, directory / UPPER)]
        if environment is None:
            saving.append(self._save_memory(machine, directory / VM))
        await together(*saving)
        kept = Saved(
            paused_at=self._clock.now(),
            filesystem_only=environment is not None,
            own_memory=record.own_memory if environment is None else None,
            machine=record.machine,
            environment=environment,
        )
        await asyncio.to_thread(kept.write, directory)
        reach("pause:disk")

    async def _save_memory(self, machine: Machine, directory: Path) -> None:
        base = self._machines.base_of(machine.record)
        await self._hypervisor.save(machine.process, base, directory, deadline=self._save_deadline)
        reach("pause:memory")

    async def _save_disk(self, record: VmRecord, path: Path) -> None:
        # The very file: nothing writes it any more, and what resumes gets a copy.
        await in_thread(os.link, self._records.upper(record.vm_id), path)
        await self._disks.sync_upper(path)

    async def _go_on(self, sandbox_id: SandboxId, machine: Machine, running: VmRecord) -> None:
        """Let the sandbox run as before. Where its VM is dead, the watch that waits for that ends it."""
        machine.record = running
        try:
            await self._hypervisor.resume(machine.process, deadline=self._save_deadline)
        except CubeError as error:
            log.error("sandbox_not_resumed", sandbox_id=sandbox_id, error=error.message)
        # Last, and without fail: the disk may be full, and a restart takes PAUSING for running, too.
        with suppress(OSError):
            self._machines.save(running)
