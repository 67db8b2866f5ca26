"""Restored, warmed and paused VMs of each template, waiting to be claimed by a create."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import structlog

from appliance.common.clock import Clock
from appliance.cubelet.concurrency import Activity
from appliance.cubelet.runtime import Stage
from appliance.cubelet.services.machines import Machine, Machines
from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.domain.ids import BuildId
from appliance.domain.pool import PoolState, next_to_fill, to_evict

log = structlog.get_logger()

_QUIET_S = 0.25
"""Creates rarely come alone: one that follows this soon shall not share the processors with the making of new VMs."""


class Pool:
    """Holds waiting VMs by build. One VM is made at a time, and none while creates come in."""

    def __init__(
        self,
        *,
        machines: Machines,
        templates: TemplateStore,
        clock: Clock,
        per_template: int,
        total: int,
        creates: Activity,
    ) -> None:
        self._machines = machines
        self._templates = templates
        self._clock = clock
        self._per_template = per_template
        self._total = total
        self._creates = creates
        self._waiting: dict[BuildId, deque[Machine]] = {}
        self._last_claim: dict[BuildId, float] = {}

    def claim(self, build_id: BuildId) -> Machine | None:
        """Take a waiting VM, or None where there is none."""
        self._last_claim[build_id] = self._clock.monotonic()
        waiting = self._waiting.get(build_id)
        return waiting.popleft() if waiting else None

    def waiting(self, build_id: BuildId) -> int:
        return len(self._waiting.get(build_id, ()))

    def adopt(self, machine: Machine) -> None:
        """Take over a waiting VM of a former Cubelet."""
        self._put(machine)

    async def refill(self) -> None:
        """Make waiting VMs until every pool is as full as it may be, one at a time, giving way to creates."""
        while self._creates.idle_s >= _QUIET_S:
            build_id = next_to_fill(self._states(), per_template=self._per_template, total=self._total)
            template = self._templates.get(BuildId(build_id)) if build_id is not None else None
            if template is None:
                return
            await self._add(template)

    async def trim(self) -> None:
        """Destroy waiting VMs beyond the limit, those of templates that are gone, and what is left of dead ones."""
        for build_id in [b for b in self._waiting if self._templates.get(b) is None]:
            await self.drop(build_id)
        for waiting in tuple(self._waiting.values()):
            for machine in tuple(waiting):
                # A create may have claimed it while we looked.
                if not await self._machines.alive(machine) and machine in waiting:
                    waiting.remove(machine)
                    log.warning("pool_vm_died", vm_id=machine.record.vm_id)
                    await self._machines.discard(machine)
        while (evict := to_evict(self._states(), total=self._total)) is not None:
            await self._machines.discard(self._waiting[BuildId(evict)].pop())

    async def drop(self, build_id: BuildId) -> None:
        """Destroy every waiting VM of one template."""
        for machine in self._waiting.pop(build_id, ()):
            await self._machines.discard(machine)

    async def close(self) -> None:
        """Close the connections to waiting VMs, which go on waiting for the next Cubelet."""
        for waiting in self._waiting.values():
            for machine in waiting:
                await machine.guest.close()

    async def _add(self, template: ReadyTemplate) -> None:
        machine = await self._machines.new(template)
        try:
            await self._machines.warm(machine, template)
            machine.record = self._machines.save(machine.record.model_copy(update={"stage": Stage.WAITING}))
        except BaseException:
            await self._machines.discard(machine)
            raise
        self._put(machine)
        log.info("pool_vm_ready", build_id=template.build_id, waiting=self.waiting(template.build_id))

    def _put(self, machine: Machine) -> None:
        self._waiting.setdefault(BuildId(machine.record.build_id), deque()).append(machine)

    def _states(self) -> list[PoolState]:
        builds: Iterable[BuildId] = {t.build_id for t in self._templates.all() if t.pooled} | set(self._waiting)
        return [
            PoolState(
                build_id=build,
                waiting=self.waiting(build),
                last_claim=self._last_claim.get(build, float("-inf")),
            )
            for build in builds
        ]
