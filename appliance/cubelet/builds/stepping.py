"""Runs the steps of a build after those that an earlier build has done, and keeps what each leaves for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.common.failpoints import reach
from appliance.cubelet.builds.context import StepContext
from appliance.cubelet.builds.machine import BuildMachine
from appliance.cubelet.builds.origin import Origin
from appliance.cubelet.builds.progress import BASE, Build
from appliance.cubelet.builds.runner import FileSource, StepRunner
from appliance.cubelet.builds.step_cache import StepCache
from appliance.cubelet.builds.step_keys import is_worth_keeping, reusable_steps, step_keys
from appliance.cubelet.builds.steps import Step
from appliance.cubelet.metrics import CubeletMetrics
from appliance.domain.errors import StorageFailure
from appliance.hypervisor.base import Hypervisor
from appliance.storage.base import DiskStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a build with steps begins."""

    upper: Path | None
    """Disk to copy; None for an empty one."""
    context: StepContext
    keys: tuple[str, ...]
    done: int | None
    """Steps that need not be run; None where not even the user is made."""


class Stepping:
    def __init__(
        self,
        *,
        cache: StepCache,
        hypervisor: Hypervisor,
        disks: DiskStore,
        files: FileSource,
        metrics: CubeletMetrics,
        step_deadline: timedelta,
        control_deadline: timedelta,
    ) -> None:
        self._cache = cache
        self._hypervisor = hypervisor
        self._disks = disks
        self._files = files
        self._metrics = metrics
        self._step_deadline = step_deadline
        self._control_deadline = control_deadline

    def beginning(self, build: Build, steps: Sequence[Step], origin: Origin) -> Beginning:
        """Return the latest point from which a build can go on."""
        request = build.request
        keys = step_keys(request.template_id, origin.identity, origin.disk_size_mib, steps)
        done = reusable_steps(keys, steps, self._cache.has, force=request.force)
        if done is None:
            return Beginning(origin.upper, origin.context, keys, None)
        upper, context = self._cache.use(keys[done])
        return Beginning(upper, context, keys, done)

    async def run(
        self, build: Build, steps: Sequence[Step], beginning: Beginning, machine: BuildMachine, disk: Path
    ) -> StepContext:
        """Run what is left to do, in a guest on `disk`, and return the context of the last step."""
        runner = StepRunner(build, machine.guest, self._files, deadline=self._step_deadline)
        build.step = BASE
        context = beginning.context
        if beginning.done is None:
            await runner.provision()
            await self._keep(build, beginning.keys[0], context, machine, disk)
        for number, step in enumerate(steps, 1):
            build.step = str(number)
            prefix = f"builder {number}/{len(steps)}"
            if beginning.done is not None and number <= beginning.done:
                self._metrics.build_steps.labels("cached").inc()
                build.say(f"CACHED [{prefix}] {step.text}")
                continue
            build.say(f"[{prefix}] {step.text}")
            context = await runner.run(step.action, context, prefix=prefix)
            reach("template:stepped")
            self._metrics.build_steps.labels("run").inc()
            if is_worth_keeping(step):
                await self._keep(build, beginning.keys[number], context, machine, disk)
        return context

    async def _keep(self, build: Build, key: str, context: StepContext, machine: BuildMachine, disk: Path) -> None:
        """Keep the disk as it is now. A build does not fail for want of room to make the next one faster."""
        if not self._cache.has_room_for(disk):
            return
        await machine.guest.flush(deadline=self._control_deadline)

        async def copy_to(path: Path) -> None:
            await self._hypervisor.pause(machine.vm, deadline=self._control_deadline)
            try:
                await self._disks.clone_upper(disk, path)
                reach("template:step-copied")
            finally:
                await self._hypervisor.resume(machine.vm, deadline=self._control_deadline)

        try:
            await self._cache.keep(key, build.request.template_id, context, copy_to)
            reach("template:step-kept")
        except (StorageFailure, OSError) as error:
            log.warning("step_not_kept", build_id=build.request.build_id, step=build.step, error=str(error))
