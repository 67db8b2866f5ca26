"""One build from its origin to its snapshot. Whatever fails, everything it took is free again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.clients.guest import GuestClient
from appliance.common.failpoints import reach
from appliance.common.trees import remove_tree
from appliance.cubelet.builds.context import environment
from appliance.cubelet.builds.finalize import FinalizeDeadlines, Finalizer, Startup, startup_of_image, startup_of_steps
from appliance.cubelet.builds.machine import BuildMachine, BuildMachines
from appliance.cubelet.builds.origin import Origin, Origins
from appliance.cubelet.builds.progress import FINALIZE, Build
from appliance.cubelet.builds.stepping import Beginning, Stepping
from appliance.cubelet.services.machines import WARM_UP
from appliance.cubelet.services.template_meta import TemplateMeta
from appliance.cubelet.services.template_store import DEVICE_STATE, UPPER, TemplateStore
from appliance.domain.errors import DeadlineExceeded, GuestFailure
from appliance.domain.ids import BuildId, TemplateId
from appliance.hypervisor.base import Hypervisor
from appliance.hypervisor.lifetime import while_alive
from appliance.storage.base import DiskStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BuildDeadlines:
    boot: timedelta
    ready: timedelta
    init: timedelta
    whole: timedelta


class Builder:
    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        disks: DiskStore,
        origins: Origins,
        machines: BuildMachines,
        store: TemplateStore,
        stepping: Stepping,
        deadlines: BuildDeadlines,
    ) -> None:
        self._hypervisor = hypervisor
        self._disks = disks
        self._origins = origins
        self._machines = machines
        self._store = store
        self._stepping = stepping
        self._deadlines = deadlines

    async def run(self, build: Build) -> None:
        """Publish the build's template, or raise CubeError."""
        whole = self._deadlines.whole.total_seconds()
        try:
            async with asyncio.timeout(whole):
                origin = await self._origins.of(build)
                reach("template:imported")
                await self._build(build, origin)
        except TimeoutError as error:
            raise DeadlineExceeded("the build", whole) from error

    async def _build(self, build: Build, origin: Origin) -> None:
        request = build.request
        build.disk_size_mib = origin.disk_size_mib
        steps = build.steps
        beginning = self._stepping.beginning(build, steps, origin) if steps is not None else None
        async with AsyncExitStack() as undo:
            workspace = self._store.workspace(BuildId(request.build_id))
            # A published workspace has been renamed away, and is no longer here.
            undo.callback(remove_tree, workspace)
            await self._make_disk(beginning.upper if beginning is not None else None, origin, workspace / UPPER)
            reach("template:disk")
            user, workdir = origin.config.user or None, origin.config.working_dir or None
            if beginning is not None:
                user, workdir = beginning.context.user, beginning.context.workdir
            build.say("booting")
            machine = await undo.enter_async_context(
                self._machines.booted(
                    request,
                    workspace=workspace,
                    layers=origin.layers,
                    default_user=user,
                    default_workdir=workdir,
                )
            )
            build.say(f"guest agent {machine.envd_version} is up")
            furnishing = self._furnish(build, origin, beginning, machine, workspace / UPPER)
            meta = await while_alive(self._hypervisor, machine.vm, furnishing)
            await self._snapshot(build, machine, workspace, meta)
            reach("template:published")

    async def _furnish(
        self, build: Build, origin: Origin, beginning: Beginning | None, machine: BuildMachine, disk: Path
    ) -> TemplateMeta:
        """Make the guest what its sandboxes shall be, and return what must be known of that."""
        request, config = build.request, origin.config
        user, workdir = config.user or None, config.working_dir or None
        if build.steps is None or beginning is None:
            startup, env = startup_of_image(request, config), environment(config)
        else:
            context = await self._stepping.run(build, build.steps, beginning, machine, disk)
            startup, env = startup_of_steps(request, context, origin.startup), dict(context.env)
            user, workdir = context.user, context.workdir
        build.step = FINALIZE
        await self._finalize(build, machine.guest, startup)
        reach("template:finalized")
        return TemplateMeta(
            template_id=TemplateId(request.template_id),
            build_id=BuildId(request.build_id),
            machine="",
            vcpus=request.vcpus,
            memory_mib=request.memory_mib,
            disk_size_mib=origin.disk_size_mib,
            volume_mib=self._machines.volume_mib,
            layers=tuple(layer.name for layer in origin.layers),
            agent_disk=str(self._machines.agent_disk),
            envd_version=machine.envd_version,
            env=env,
            default_user=user,
            default_workdir=workdir,
            start=startup.start,
            ready=startup.ready,
            disk_is_whole=True,
        )

    async def _make_disk(self, source: Path | None, origin: Origin, path: Path) -> None:
        if source is None:
            await self._disks.create_upper(path, size_mib=origin.disk_size_mib)
        else:
            await self._disks.clone_upper(source, path)
            await self._disks.grow_upper(path, size_mib=origin.disk_size_mib)

    async def _finalize(self, build: Build, guest: GuestClient, startup: Startup) -> None:
        """Start what the template runs, and make the guest write all to its disk."""
        finalizer = Finalizer(
            build, guest, FinalizeDeadlines(command=self._deadlines.init, ready=self._deadlines.ready)
        )
        if build.steps is not None:
            await finalizer.configure()
        # What an image starts by itself nobody has asked for.
        await finalizer.start(startup, may_fail=build.steps is None and build.request.start_cmd is None)
        reach("template:started")
        try:
            for _ in range(2):
                await guest.run(WARM_UP, deadline=self._deadlines.init)
        except GuestFailure as error:
            log.debug("warm_up_without_shell", error=error.message)
        # Another build may start from a copy of this disk.
        await guest.flush(deadline=self._deadlines.boot)

    async def _snapshot(self, build: Build, machine: BuildMachine, workspace: Path, template: TemplateMeta) -> None:
        await machine.guest.close()
        build.say("taking the snapshot")
        saving = self._hypervisor.snapshot(machine.vm, workspace, deadline=self._deadlines.boot)
        snapshot = await while_alive(self._hypervisor, machine.vm, saving)
        reach("template:saved")
        await self._hypervisor.stop(machine.vm)
        snapshot.device_state.rename(workspace / DEVICE_STATE)
        meta = template.model_copy(update={"machine": snapshot.machine})
        await asyncio.to_thread(self._store.publish, workspace, meta)
