"""The life of sandboxes on this node: create, deadline, end.

One lock a sandbox orders what happens to it. A sandbox ends once, with the first reason; freeing what it held happens
before the end is reported, so that an end that is visible is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.contracts.node import EndedSandbox, EndReason
from appliance.cubelet.concurrency import Activity, KeyedLocks
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import SandboxRecord, Stage, VmRecord
from appliance.cubelet.services.machines import Machine, Machines
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.cubevs.base import EgressPolicy, Switch
from appliance.domain.errors import (
    Conflict,
    CubeError,
    SandboxNotFound,
    SandboxTransitioning,
    TemplateNotReady,
    VmmFailure,
)
from appliance.domain.ids import BuildId, SandboxId
from appliance.hypervisor.base import Hypervisor
from appliance.hypervisor.deadlines import together

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NewSandbox:
    """What CubeMaster asks for."""

    sandbox_id: SandboxId
    build_id: BuildId
    end_at: datetime
    env_vars: Mapping[str, str]
    access_token: str | None
    egress: EgressPolicy


class Sandboxes:
    """Owns every VM that has a sandbox. All methods may be called at once; each is safe to repeat."""

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        switch: Switch,
        machines: Machines,
        templates: TemplateStore,
        pool: Pool,
        creates: Activity,
        ended: EndedStore,
        last_words: Callable[[VmRecord], Awaitable[None]],
        supervisor: Supervisor,
        clock: Clock,
        metrics: CubeletMetrics,
        restore_concurrency: int,
        restore_deadline: timedelta,
        init_deadline: timedelta,
    ) -> None:
        self._hypervisor = hypervisor
        self._switch = switch
        self._machines = machines
        self._templates = templates
        self._pool = pool
        self._creates = creates
        self._ended = ended
        self._last_words = last_words
        self._supervisor = supervisor
        self._clock = clock
        self._metrics = metrics
        # More restores at once than this only slow each other down (performance.md, F2).
        self._restores = asyncio.Semaphore(restore_concurrency)
        self._restore_deadline = restore_deadline
        self._init_deadline = init_deadline
        self._live: dict[SandboxId, Machine] = {}
        self._locks = KeyedLocks[SandboxId]()
        self._timers: dict[SandboxId, asyncio.TimerHandle] = {}

    def list(self) -> list[VmRecord]:
        return [machine.record for machine in self._live.values()]

    def get(self, sandbox_id: SandboxId) -> VmRecord:
        machine = self._live.get(sandbox_id)
        if machine is None:
            raise SandboxNotFound(sandbox_id)
        return machine.record

    def uses(self, build_id: BuildId) -> int:
        """Return how many sandboxes run from a build."""
        return sum(1 for machine in self._live.values() if machine.record.build_id == build_id)

    async def create(self, request: NewSandbox) -> VmRecord:
        """Return a running sandbox whose guest has acknowledged its identity. The same id again is the same sandbox."""
        async with self._locks.hold(request.sandbox_id):
            existing = self._live.get(request.sandbox_id)
            if existing is not None:
                return existing.record
            template = self._templates.get(request.build_id)
            if template is None:
                raise TemplateNotReady(request.build_id, "not on this node")
            begun = self._clock.monotonic()
            try:
                with self._creates.one():
                    record = await self._create(request, template)
            except CubeError as error:
                self._metrics.failed.labels(type(error).__name__).inc()
                raise
            origin = "pool" if record.sandbox is not None and record.sandbox.pooled else "clone"
            self._metrics.created.labels(origin).observe(self._clock.monotonic() - begun)
            return record

    async def _create(self, request: NewSandbox, template: ReadyTemplate) -> VmRecord:
        while (waiting := self._pool.claim(request.build_id)) is not None:
            try:
                return await self._give_identity(waiting, request, template, pooled=True)
            except VmmFailure as error:
                # It died while it waited, which nobody who wants a sandbox needs to know.
                log.warning("pool_vm_unusable", vm_id=waiting.record.vm_id, error=error.message)
        async with self._restores:
            machine = await self._machines.clone(template)
            return await self._give_identity(machine, request, template, pooled=False)

    async def _give_identity(
        self, machine: Machine, request: NewSandbox, template: ReadyTemplate, *, pooled: bool
    ) -> VmRecord:
        started_at = self._clock.now()
        sandbox = SandboxRecord(
            sandbox_id=request.sandbox_id, started_at=started_at, end_at=request.end_at, pooled=pooled
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
            )
            # All at once: what the guest sends before it is admitted is dropped, but for its answers to this node, and
            # what is sent to it before it runs waits in its tap.
            await together(
                self._switch.admit(machine.record.tap, request.sandbox_id, request.egress),
                self._hypervisor.resume(machine.process, deadline=self._restore_deadline),
                machine.guest.init(identity, deadline=self._init_deadline),
            )
            machine.record = self._machines.save(machine.record.model_copy(update={"stage": Stage.RUNNING}))
        except BaseException:
            await asyncio.shield(self._discard(machine))
            raise
        self._let_go_of(machine)
        self._begin(machine)
        log.info("sandbox_created", sandbox_id=request.sandbox_id, vm_id=machine.record.vm_id, pooled=pooled)
        return machine.record

    def _let_go_of(self, machine: Machine) -> None:
        # No connection of ours stays open in a guest that has an owner.
        self._supervisor.spawn(machine.guest.close(), name=f"close-{machine.record.vm_id}")

    async def _discard(self, machine: Machine) -> None:
        await machine.guest.close()
        await self._machines.destroy(machine.record)

    def adopt(self, machine: Machine) -> None:
        """Take over a running sandbox of a former Cubelet."""
        self._let_go_of(machine)
        self._begin(machine)

    def set_deadline(self, sandbox_id: SandboxId, end_at: datetime) -> None:
        """Move the end of a sandbox; a past time ends it now."""
        machine = self._live.get(sandbox_id)
        if machine is None or machine.record.sandbox is None:
            raise SandboxNotFound(sandbox_id)
        if machine.record.stage is Stage.ENDING:
            raise SandboxTransitioning(sandbox_id, "killed")
        sandbox = machine.record.sandbox.model_copy(update={"end_at": end_at})
        machine.record = self._machines.save(machine.record.model_copy(update={"sandbox": sandbox}))
        self._arm(sandbox_id, end_at)

    async def kill(self, sandbox_id: SandboxId) -> None:
        """End a sandbox because its owner asked. One that is gone is success; a create under way is waited for."""
        await self._end(sandbox_id, EndReason.KILLED, "", report=False)

    def refuse_delete_of(self, build_id: BuildId) -> None:
        """Raise Conflict while sandboxes of a build run: their RAM and disks are the template's files."""
        count = self.uses(build_id)
        if count:
            raise Conflict(f"{count} sandboxes run from build '{build_id}'; kill them first")

    def _begin(self, machine: Machine) -> None:
        sandbox = machine.record.sandbox
        if sandbox is None:
            raise ValueError(f"VM {machine.record.vm_id} has no sandbox")
        self._live[sandbox.sandbox_id] = machine
        self._arm(sandbox.sandbox_id, sandbox.end_at)
        self._supervisor.spawn(self._watch(sandbox.sandbox_id, machine), name=f"watch-{sandbox.sandbox_id}")

    def _arm(self, sandbox_id: SandboxId, end_at: datetime) -> None:
        timer = self._timers.pop(sandbox_id, None)
        if timer is not None:
            timer.cancel()
        # The loop's clock is monotonic: a step of the wall clock neither ends a sandbox early nor keeps it.
        remaining = max(0.0, (end_at - self._clock.now()).total_seconds())
        self._timers[sandbox_id] = asyncio.get_running_loop().call_later(remaining, self._expire, sandbox_id)

    def _expire(self, sandbox_id: SandboxId) -> None:
        work = self._end(sandbox_id, EndReason.TIMEOUT, "", report=True)
        self._supervisor.spawn(work, name=f"expire-{sandbox_id}")

    async def _watch(self, sandbox_id: SandboxId, machine: Machine) -> None:
        await self._hypervisor.wait_exit(machine.process)
        if machine.record.stage is Stage.RUNNING:
            await self._end(sandbox_id, EndReason.VMM_DIED, "the VMM process ended by itself", report=True)

    async def _end(self, sandbox_id: SandboxId, reason: EndReason, detail: str, *, report: bool) -> None:
        async with self._locks.hold(sandbox_id):
            machine = self._live.get(sandbox_id)
            if machine is None:
                return
            timer = self._timers.pop(sandbox_id, None)
            if timer is not None:
                timer.cancel()
            if machine.record.stage is not Stage.ENDING:
                machine.record = self._machines.save(
                    machine.record.model_copy(
                        update={"stage": Stage.ENDING, "end_reason": reason, "end_detail": detail}
                    )
                )
            if reason in (EndReason.KILLED, EndReason.TIMEOUT):
                await self._last_words(machine.record)
            ended = EndedSandbox(sandbox_id=sandbox_id, reason=reason, detail=detail, ended_at=self._clock.now())
            # Noted once all is freed but the record: a crash in between repeats the end, it never loses the reason.
            await self._machines.destroy(
                machine.record, before_forgetting=(lambda: self._ended.note(ended)) if report else None
            )
            del self._live[sandbox_id]
        self._metrics.ended.labels(reason).inc()
        log.info("sandbox_ended", sandbox_id=sandbox_id, reason=reason, detail=detail)
