"""Sandboxes from the moment they run to their end: watched, and ended once, with the first reason.

Freeing what a sandbox held happens before its end is reported, so that an end that is visible is complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from appliance.clients.guest import GuestClient
from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.contracts.node import EndedSandbox, EndReason
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import Stage, VmRecord
from appliance.cubelet.services.keepers import release
from appliance.cubelet.services.machines import Machine, Machines
from appliance.cubelet.services.registry import Registry, id_of
from appliance.cubelet.services.timers import Timers
from appliance.domain.ids import SandboxId
from appliance.hypervisor.base import Hypervisor

log = structlog.get_logger()


class Running:
    """Begins and ends sandboxes. Whoever begins one holds its lock."""

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        machines: Machines,
        registry: Registry,
        timers: Timers,
        ended: EndedStore,
        last_words: Callable[[VmRecord], Awaitable[None]],
        supervisor: Supervisor,
        clock: Clock,
        metrics: CubeletMetrics,
    ) -> None:
        self._hypervisor = hypervisor
        self._machines = machines
        self._registry = registry
        self._timers = timers
        self._ended = ended
        self._last_words = last_words
        self._supervisor = supervisor
        self._clock = clock
        self._metrics = metrics

    def begin(self, machine: Machine) -> None:
        """Go on with a VM that runs as a sandbox: keep its time, and watch for its death."""
        sandbox = machine.record.sandbox
        if sandbox is None:
            raise ValueError(f"VM {machine.record.vm_id} has no sandbox")
        # No connection of ours stays open in a guest that has an owner.
        self._supervisor.spawn(machine.guest.close(), name=f"close-{machine.record.vm_id}")
        self._registry.paused.pop(sandbox.sandbox_id, None)
        self._registry.live[sandbox.sandbox_id] = machine
        self._timers.arm(sandbox.sandbox_id, sandbox.end_at)
        self._supervisor.spawn(self._watch(sandbox.sandbox_id, machine), name=f"watch-{sandbox.sandbox_id}")

    async def end(
        self,
        sandbox_id: SandboxId,
        reason: EndReason,
        detail: str = "",
        *,
        report: bool,
        only: Machine | None = None,
        if_due: bool = False,
    ) -> None:
        """End a sandbox in whatever state it is. One that is gone is success.

        `only` this VM of it, where it may have another by now; `if_due`: not where its time has been moved.
        """
        async with self._registry.locks.hold(sandbox_id):
            record = self._registry.find(sandbox_id)
            if record is None:
                return
            # Of one that has been saved, the VM is no longer needed.
            if only is not None and (self._registry.live.get(sandbox_id) is not only or record.stage is Stage.PAUSING):
                return
            if if_due and self._timers.armed(sandbox_id):
                return
            self._timers.cancel(sandbox_id)
            if record.stage is not Stage.ENDING:
                record = self._ending(record, reason, detail)
            if reason in (EndReason.KILLED, EndReason.TIMEOUT) and sandbox_id in self._registry.live:
                await self._last_words(record)
            if reason is not EndReason.VMM_DIED:
                await self._release_volumes(record)
            ended = EndedSandbox(sandbox_id=sandbox_id, reason=reason, detail=detail, ended_at=self._clock.now())
            # Noted once all is freed but the record: a crash in between repeats the end, it never loses the reason.
            await self._machines.destroy(
                record, before_forgetting=(lambda: self._ended.note(ended)) if report else None
            )
            self._registry.live.pop(sandbox_id, None)
            self._registry.paused.pop(sandbox_id, None)
        self._metrics.ended.labels(reason).inc()
        log.info("sandbox_ended", sandbox_id=sandbox_id, reason=reason, detail=detail)

    async def _release_volumes(self, record: VmRecord) -> None:
        machine = self._registry.live.get(id_of(record))
        if machine is None or not record.volumes:
            return
        guest = GuestClient(machine.tap.address)
        try:
            await release(guest, volume_ids=tuple(one.volume_id for one in record.volumes))
        finally:
            await guest.close()

    def _ending(self, record: VmRecord, reason: EndReason, detail: str) -> VmRecord:
        record = self._machines.save(
            record.model_copy(update={"stage": Stage.ENDING, "end_reason": reason, "end_detail": detail})
        )
        sandbox_id = id_of(record)
        machine = self._registry.live.get(sandbox_id)
        if machine is not None:
            machine.record = record
        else:
            self._registry.paused[sandbox_id] = record
        return record

    async def _watch(self, sandbox_id: SandboxId, machine: Machine) -> None:
        await self._hypervisor.wait_exit(machine.process)
        # One that was paused or killed meanwhile is gone or has another VM by the time that we have its lock.
        detail = "the VMM process ended by itself"
        await self.end(sandbox_id, EndReason.VMM_DIED, detail, report=True, only=machine)
