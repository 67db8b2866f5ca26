"""Snapshots: a sandbox as it is now becomes a build, from which others are made, and goes on."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.clients.guest import GuestClient
from appliance.common.failpoints import reach
from appliance.common.trees import remove_tree
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import RecordStore
from appliance.cubelet.services.machines import Machine, Machines, meta_of
from appliance.cubelet.services.pausing import VM
from appliance.cubelet.services.registry import Registry
from appliance.cubelet.services.template_meta import BuildKind, TemplateMeta
from appliance.cubelet.services.template_store import MEMORY, UPPER, ReadyTemplate, TemplateStore
from appliance.cubelet.services.volumes import refuse_volumes
from appliance.domain.errors import CubeError, GuestFailure, GuestUnresponsive
from appliance.domain.ids import BuildId, SandboxId, TemplateId
from appliance.hypervisor.base import Hypervisor, Snapshot
from appliance.storage.base import DiskStore

log = structlog.get_logger()


class Snapshots:
    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        disks: DiskStore,
        machines: Machines,
        records: RecordStore,
        registry: Registry,
        templates: TemplateStore,
        metrics: CubeletMetrics,
        save_deadline: timedelta,
        flush_deadline: timedelta,
    ) -> None:
        self._hypervisor = hypervisor
        self._disks = disks
        self._machines = machines
        self._records = records
        self._registry = registry
        self._templates = templates
        self._metrics = metrics
        self._save_deadline = save_deadline
        self._flush_deadline = flush_deadline

    async def take(
        self, sandbox_id: SandboxId, *, template_id: TemplateId, build_id: BuildId, memory: bool
    ) -> ReadyTemplate:
        """Make a build of a running sandbox, which stops meanwhile. The same id again is the same one."""
        async with self._registry.locks.hold(sandbox_id):
            taken = self._templates.get(build_id)
            if taken is not None:
                return taken
            machine = self._registry.running(sandbox_id)
            refuse_volumes(machine.record, "snapshot or forked")
            with self._metrics.keeping("snapshot", memory=memory):
                taken = await self._take(sandbox_id, machine, template_id, build_id, memory=memory)
        log.info("snapshot_taken", sandbox_id=sandbox_id, build_id=build_id, memory=memory)
        return taken

    async def _take(
        self, sandbox_id: SandboxId, machine: Machine, template_id: TemplateId, build_id: BuildId, *, memory: bool
    ) -> ReadyTemplate:
        async with AsyncExitStack() as undo:
            workspace = self._templates.workspace(build_id, mode=0o700)
            # A published workspace has been renamed away, and is no longer here.
            undo.callback(remove_tree, workspace)
            reach("snapshot:intended")
            environment = None if memory else await self._flush(sandbox_id, machine)
            snapshot = await self._copy(sandbox_id, machine, workspace, memory=memory)
            reach("snapshot:resumed")
            meta = self._meta(machine, template_id, build_id, snapshot, environment)
            files = [UPPER]
            if memory and not meta.base_memory:
                await asyncio.to_thread(os.link, self._machines.base_of(machine.record).memory_file, workspace / MEMORY)
                files.append(MEMORY)
            ready = await asyncio.to_thread(self._templates.publish, workspace, meta, files)
            reach("snapshot:published")
            return ready

    async def _copy(self, sandbox_id: SandboxId, machine: Machine, workspace: Path, *, memory: bool) -> Snapshot | None:
        """Copy RAM and disk of the same moment. The machine goes on at once, whatever fails."""
        snapshot = None
        try:
            if memory:
                base = self._machines.base_of(machine.record)
                snapshot = await self._hypervisor.save(
                    machine.process, base, workspace / VM, deadline=self._save_deadline
                )
            else:
                await self._hypervisor.pause(machine.process, deadline=self._save_deadline)
            reach("snapshot:memory")
            await self._disks.clone_upper(self._records.upper(machine.record.vm_id), workspace / UPPER)
            reach("snapshot:disk")
        finally:
            await asyncio.shield(self._go_on(sandbox_id, machine))
        return snapshot

    async def _go_on(self, sandbox_id: SandboxId, machine: Machine) -> None:
        try:
            await self._hypervisor.resume(machine.process, deadline=self._save_deadline)
        except CubeError as error:
            # A dead one is ended by the watch that waits for that.
            log.error("sandbox_not_resumed", sandbox_id=sandbox_id, error=error.message)

    async def _flush(self, sandbox_id: SandboxId, machine: Machine) -> dict[str, str]:
        guest = GuestClient(machine.tap.address)
        try:
            return await guest.flush(deadline=self._flush_deadline)
        except GuestFailure as error:
            raise GuestUnresponsive(sandbox_id) from error
        finally:
            await guest.close()

    def _meta(
        self,
        machine: Machine,
        template_id: TemplateId,
        build_id: BuildId,
        snapshot: Snapshot | None,
        environment: dict[str, str] | None,
    ) -> TemplateMeta:
        record, source = machine.record, meta_of(machine.record)
        changed_pages = snapshot.changed_pages if snapshot is not None else None
        return source.model_copy(
            update={
                "template_id": template_id,
                "build_id": build_id,
                "kind": BuildKind.SNAPSHOT,
                "base_build_id": source.root_build_id,
                "base_memory": snapshot is not None and record.own_memory is None,
                "machine": record.machine,
                "device_state": f"{VM}/{snapshot.device_state.name}" if snapshot is not None else None,
                "changed_pages": f"{VM}/{changed_pages.name}" if changed_pages is not None else None,
                # Without RAM it was flushed before it was copied.
                "disk_is_whole": snapshot is None,
                # The guest's RAM has its variables, where it is kept.
                "env": environment or {},
            }
        )
