"""Rollback: a sandbox becomes what it was at a snapshot of its own, and keeps its id, its end and its log.

A machine of the snapshot is made beside the sandbox's, which runs on as if nothing had been asked. Its record belongs
to nobody until the guest has acknowledged whose it is; that it then is the sandbox's, in a generation that is higher by
one, is one write, and decides: before, a restart finds the sandbox as it was; from then on, the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from appliance.common.failpoints import reach
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import Stage, VmRecord
from appliance.cubelet.services.machines import Machine, Machines, under
from appliance.cubelet.services.registry import Registry
from appliance.cubelet.services.running import Running
from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.cubelet.services.volumes import refuse_volumes
from appliance.cubevs.base import EgressPolicy
from appliance.domain.errors import BuildNotFound, CubeError
from appliance.domain.ids import BuildId, SandboxId

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Goal:
    """What CubeMaster asks for."""

    build_id: BuildId
    access_token: str | None
    egress: EgressPolicy


class Rollbacks:
    def __init__(
        self,
        *,
        machines: Machines,
        registry: Registry,
        templates: TemplateStore,
        running: Running,
        last_words: Callable[[VmRecord], Awaitable[None]],
        rewound: Callable[[VmRecord, str | None], Awaitable[None]],
        metrics: CubeletMetrics,
        restores: asyncio.Semaphore,
    ) -> None:
        self._machines = machines
        self._registry = registry
        self._templates = templates
        self._running = running
        self._last_words = last_words
        self._rewound = rewound
        self._metrics = metrics
        self._restores = restores

    async def roll_back(self, sandbox_id: SandboxId, goal: Goal) -> VmRecord:
        """Return the sandbox, running as of the snapshot `goal.build_id`, once its guest has acknowledged that.

        Whatever fails, it runs on as it was. Raises BuildNotFound, and Conflict where it does not run.
        """
        async with self._registry.locks.hold(sandbox_id):
            before = self._registry.running(sandbox_id)
            refuse_volumes(before.record, "rolled back")
            template = self._templates.get(goal.build_id)
            if template is None:
                raise BuildNotFound(goal.build_id)
            with self._metrics.keeping("rollback", memory=template.snapshot is not None):
                async with self._restores:
                    machine = await self._make(sandbox_id, before, template, goal)
            self._running.begin(machine)
            await asyncio.shield(self._free(sandbox_id, before))
            await self._rewound(machine.record, goal.access_token)
        log.info("sandbox_rolled_back", sandbox_id=sandbox_id, vm_id=machine.record.vm_id, build_id=goal.build_id)
        return machine.record

    async def _make(self, sandbox_id: SandboxId, before: Machine, template: ReadyTemplate, goal: Goal) -> Machine:
        """Return the machine that is the sandbox from now on; on failure nothing of it is left."""
        machine = await self._machines.new(template)
        try:
            reach("rollback:restored")
            await self._last_words(before.record)
            identity = self._machines.identity(
                machine.record,
                sandbox_id=sandbox_id,
                access_token=goal.access_token,
                env_vars=template.meta.env,
                default_user=template.meta.default_user,
                default_workdir=template.meta.default_workdir,
                machine_id=None,
                inherits_env=True,
            )
            await self._machines.hand_over(machine, identity, goal.egress)
            if template.snapshot is None:
                await self._machines.start_services(machine, goal.access_token)
            reach("rollback:ready")
            # Its end may have been moved meanwhile, and is not moved while this is written.
            machine.record = self._machines.save(_in_place_of(before.record, machine.record, goal.egress))
        except BaseException:
            await asyncio.shield(self._machines.discard(machine))
            raise
        return machine

    async def _free(self, sandbox_id: SandboxId, replaced: Machine) -> None:
        """Free the machine that is the sandbox no longer. What resists is freed by the next start of this process."""
        try:
            reach("rollback:recorded")
            # A sandbox has ended with its newest machine; none that is left of an earlier one may bring it back.
            with suppress(OSError):
                self._machines.save(replaced.record.model_copy(update={"stage": Stage.PREPARING, "sandbox": None}))
            reach("rollback:disowned")
            await self._machines.destroy(replaced.record)
            reach("rollback:freed")
        except CubeError as error:
            log.error("machine_not_freed", sandbox_id=sandbox_id, vm_id=replaced.record.vm_id, error=error.message)


def _in_place_of(before: VmRecord, new: VmRecord, egress: EgressPolicy) -> VmRecord:
    if before.sandbox is None:
        raise ValueError(f"VM {before.vm_id} has no sandbox")
    return new.model_copy(
        update={
            "stage": Stage.RUNNING,
            "generation": before.generation + 1,
            "sandbox": before.sandbox.model_copy(update={"pooled": False, **under(egress)}),
        }
    )
