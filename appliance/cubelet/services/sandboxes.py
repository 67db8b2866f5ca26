"""The life of sandboxes on this node: create, deadline, network, kill."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from appliance.common.clock import Clock
from appliance.contracts.node import EndReason, OnTimeout
from appliance.cubelet.concurrency import Activity
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import AttachedVolume, SandboxRecord, Stage, VmRecord
from appliance.cubelet.services.machines import Machine, Machines, under
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.registry import Registry, id_of, sandbox_of
from appliance.cubelet.services.running import Running
from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.cubelet.services.timers import Timers
from appliance.cubelet.services.volumes import Volumes
from appliance.cubevs.base import EgressPolicy, Switch
from appliance.domain.errors import Conflict, CubeError, TemplateNotReady, VmmFailure
from appliance.domain.ids import BuildId, SandboxId

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NewSandbox:
    """What CubeMaster asks for."""

    sandbox_id: SandboxId
    build_id: BuildId
    end_at: datetime
    on_timeout: OnTimeout
    env_vars: Mapping[str, str]
    access_token: str | None
    egress: EgressPolicy
    volumes: tuple[AttachedVolume, ...] = ()


class Sandboxes:
    """All methods may be called at once; each is safe to repeat."""

    def __init__(
        self,
        *,
        switch: Switch,
        machines: Machines,
        templates: TemplateStore,
        pool: Pool,
        creates: Activity,
        registry: Registry,
        running: Running,
        volumes: Volumes,
        timers: Timers,
        clock: Clock,
        metrics: CubeletMetrics,
        restores: asyncio.Semaphore,
    ) -> None:
        self._switch = switch
        self._machines = machines
        self._templates = templates
        self._pool = pool
        self._creates = creates
        self._registry = registry
        self._running = running
        self._volumes = volumes
        self._timers = timers
        self._clock = clock
        self._metrics = metrics
        self._restores = restores

    def list(self) -> Sequence[VmRecord]:
        return self._registry.list()

    def get(self, sandbox_id: SandboxId) -> VmRecord:
        return self._registry.get(sandbox_id)

    def is_changing(self, record: VmRecord) -> bool:
        """Return whether a call that changes the sandbox is under way, or waits for another one."""
        return self._registry.locks.is_held(id_of(record))

    async def create(self, request: NewSandbox) -> VmRecord:
        """Return a running sandbox whose guest has acknowledged its identity. The same id again is the same sandbox."""
        async with self._registry.locks.hold(request.sandbox_id):
            existing = self._registry.find(request.sandbox_id)
            if existing is not None:
                return existing
            template = self._templates.get(request.build_id)
            if template is None:
                raise TemplateNotReady(request.build_id, "not on this node")
            begun = self._clock.monotonic()
            try:
                with self._creates.one():
                    async with self._volumes.taken(request.volumes, request.sandbox_id, template):
                        record = await self._create(request, template)
            except CubeError as error:
                self._metrics.failed.labels(type(error).__name__).inc()
                raise
            origin = "pool" if record.sandbox is not None and record.sandbox.pooled else "clone"
            self._metrics.created.labels(origin).observe(self._clock.monotonic() - begun)
            return record

    async def _create(self, request: NewSandbox, template: ReadyTemplate) -> VmRecord:
        # What waits in the pool was restored with nothing in its slots.
        while not request.volumes and (waiting := self._pool.claim(request.build_id)) is not None:
            try:
                return await self._give_identity(waiting, request, template, pooled=True)
            except VmmFailure as error:
                # It died while it waited, which nobody who wants a sandbox needs to know.
                log.warning("pool_vm_unusable", vm_id=waiting.record.vm_id, error=error.message)
        async with self._restores:
            machine = await self._machines.new(template, request.volumes)
            return await self._give_identity(machine, request, template, pooled=False)

    async def _give_identity(
        self, machine: Machine, request: NewSandbox, template: ReadyTemplate, *, pooled: bool
    ) -> VmRecord:
        sandbox = SandboxRecord(
            sandbox_id=request.sandbox_id,
            started_at=self._clock.now(),
            end_at=request.end_at,
            on_timeout=request.on_timeout,
            pooled=pooled,
            **under(request.egress),
        )
        try:
            machine.record = self._machines.save(
                machine.record.model_copy(update={"stage": Stage.CREATING, "sandbox": sandbox})
            )
            identity = self._machines.identity(
                machine.record,
                sandbox_id=request.sandbox_id,
                access_token=request.access_token,
                env_vars={**template.meta.env, **request.env_vars},
                default_user=template.meta.default_user,
                default_workdir=template.meta.default_workdir,
                inherits_env=not template.pooled,
            )
            await self._machines.hand_over(machine, identity, request.egress)
            if template.snapshot is None:
                await self._machines.start_services(machine, request.access_token)
            machine.record = self._machines.save(machine.record.model_copy(update={"stage": Stage.RUNNING}))
        except BaseException:
            await asyncio.shield(self._machines.discard(machine))
            raise
        self._running.begin(machine)
        log.info("sandbox_created", sandbox_id=request.sandbox_id, vm_id=machine.record.vm_id, pooled=pooled)
        return machine.record

    def set_deadline(self, sandbox_id: SandboxId, end_at: datetime) -> None:
        """Move the end of a sandbox that runs; a past time ends it now."""
        machine = self._registry.running(sandbox_id)
        sandbox = sandbox_of(machine.record).model_copy(update={"end_at": end_at})
        machine.record = self._machines.save(machine.record.model_copy(update={"sandbox": sandbox}))
        self._timers.arm(sandbox_id, end_at)

    async def set_network(self, sandbox_id: SandboxId, policy: EgressPolicy) -> None:
        """Replace what a running sandbox may reach. Flows that are no longer allowed end with their next packet."""
        async with self._registry.locks.hold(sandbox_id):
            machine = self._registry.running(sandbox_id)
            if policy.header_rules and not sandbox_of(machine.record).trusts_authority:
                await self._machines.have_trusted(machine, sandbox_id)
            await self._switch.admit(machine.tap, sandbox_id, policy)
            former = sandbox_of(machine.record)
            sandbox = former.model_copy(update=under(policy, former))
            # Recorded once it is in force: a crash in between has the same rules sent again.
            machine.record = self._machines.save(machine.record.model_copy(update={"sandbox": sandbox}))

    async def kill(self, sandbox_id: SandboxId) -> None:
        """End a sandbox because its owner asked. One that is gone is success; what is under way is waited for."""
        await self._running.end(sandbox_id, EndReason.KILLED, report=False)

    def refuse_delete_of(self, build_id: BuildId) -> None:
        """Raise Conflict while sandboxes or snapshots need a build: their RAM and disks are its files."""
        count = self._registry.needing(build_id)
        if count:
            raise Conflict(f"{count} sandboxes, running or paused, need build '{build_id}'; kill them first")
        snapshots = self._templates.based_on(build_id)
        if snapshots:
            raise Conflict(f"{len(snapshots)} snapshots need build '{build_id}'; delete them first")
