"""Template builds on this node: image -> layers -> boot -> start command -> probe -> warm -> snapshot -> ready."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.clients.guest import GuestClient
from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.contracts.node import BuildLogEntry, BuildProgress, BuildRequest, BuildState
from appliance.cubelet.guest_image import GuestImage
from appliance.cubelet.runtime import RecordStore, Stage, VmRecord
from appliance.cubelet.services.booting import Boots
from appliance.cubelet.services.machines import WARM_UP, Machines, behind, guest_disks, new_vm_id
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_meta import StartCommand, TemplateMeta
from appliance.cubelet.services.template_store import DEVICE_STATE, MEMORY, UPPER, TemplateStore
from appliance.cubevs.base import EgressPolicy, Switch, Tap
from appliance.domain.errors import BuildNotFound, CubeError, DeadlineExceeded, GuestFailure, InvalidRequest
from appliance.domain.ids import BuildId, SandboxId, TemplateId
from appliance.hypervisor.base import Confinement, Hypervisor, VmProcess, VmSpec
from appliance.storage.base import DiskStore, ImageConfig, ImageStore, ImportedImage, RegistryCredentials

log = structlog.get_logger()


@dataclass(slots=True)
class Build:
    """A build of this Cubelet's life: progress that CubeMaster copies into its rows."""

    request: BuildRequest
    clock: Clock
    state: BuildState = BuildState.BUILDING
    logs: list[BuildLogEntry] = field(default_factory=list)
    step: str = "base"
    reason: str | None = None
    work: asyncio.Task[None] | None = None

    def say(self, message: str, *, level: str = "info") -> None:
        entry = BuildLogEntry(timestamp=self.clock.now(), level=level, message=message, step=self.step)
        self.logs.append(entry)

    def fail(self, reason: str) -> None:
        self.state, self.reason = BuildState.ERROR, reason
        self.say(reason, level="error")


@dataclass(frozen=True, slots=True)
class BuildDeadlines:
    boot: timedelta
    ready: timedelta
    init: timedelta
    image: timedelta


class Templates:
    """Runs builds, one at a time: a build uses all the node has, and two only slow each other."""

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        switch: Switch,
        images: ImageStore,
        disks: DiskStore,
        taps: TapPool,
        machines: Machines,
        store: TemplateStore,
        records: RecordStore,
        boots: Boots,
        guest_image: GuestImage,
        supervisor: Supervisor,
        clock: Clock,
        deadlines: BuildDeadlines,
    ) -> None:
        self._hypervisor = hypervisor
        self._switch = switch
        self._images = images
        self._disks = disks
        self._taps = taps
        self._machines = machines
        self._store = store
        self._records = records
        self._boots = boots
        self._guest_image = guest_image
        self._supervisor = supervisor
        self._clock = clock
        self._deadlines = deadlines
        self._builds: dict[BuildId, Build] = {}
        self._one_at_a_time = asyncio.Lock()

    def start(self, request: BuildRequest) -> None:
        """Begin a build in the background. One that is running or ready is left as it is; a failed one starts anew."""
        if request.image is None or request.from_build is not None or request.steps is not None:
            raise InvalidRequest("this node builds from images as they are; leave out from_build and steps")
        build_id = BuildId(request.build_id)
        known = self._builds.get(build_id)
        if self._store.get(build_id) is not None or (known is not None and known.state is BuildState.BUILDING):
            return
        build = Build(request=request, clock=self._clock)
        self._builds[build_id] = build
        build.work = self._supervisor.spawn(self._run(build), name=f"build-{build_id}")

    def progress(self, build_id: BuildId, log_offset: int) -> BuildProgress:
        """Return what has happened since `log_offset` entries. Raises BuildNotFound."""
        build, template = self._builds.get(build_id), self._store.get(build_id)
        if build is None and template is None:
            raise BuildNotFound(build_id)
        meta = template.meta if template is not None else None
        return BuildProgress(
            build_id=build_id,
            state=BuildState.READY if meta is not None else build.state if build is not None else BuildState.ERROR,
            logs=tuple(build.logs[log_offset:]) if build is not None else (),
            reason=build.reason if build is not None else None,
            step=build.step if build is not None and build.reason is not None else None,
            disk_size_mib=meta.disk_size_mib if meta is not None else None,
            envd_version=meta.envd_version if meta is not None else None,
            layers=meta.layers if meta is not None else (),
        )

    async def delete(self, build_id: BuildId) -> None:
        """Remove a build, stopping it if it runs, and the layers that nothing else uses. Absent builds are success."""
        build = self._builds.get(build_id)
        if build is not None:
            if build.work is not None and not build.work.done():
                build.work.cancel()
                await asyncio.wait({build.work})
            self._builds.pop(build_id, None)
        if build is None and self._store.get(build_id) is None:
            return
        await asyncio.to_thread(self._store.delete, build_id)
        # Another build delays this, and nobody has to wait for it.
        self._supervisor.spawn(self._collect_layers(), name=f"collect-{build_id}")

    async def _collect_layers(self) -> None:
        # Under the build lock: a running build holds layers that no template names yet.
        async with self._one_at_a_time:
            in_use = self._store.layers_in_use() | self._records.layers_in_use()
            for layer in await self._images.layers():
                if layer.path.name not in in_use:
                    await self._images.delete_layer(layer.digest)

    async def _run(self, build: Build) -> None:
        build_id = build.request.build_id
        try:
            async with self._one_at_a_time:
                await self._build(build)
        except CubeError as error:
            build.fail(error.message)
            log.warning("build_failed", build_id=build_id, step=build.step, error=error.message)
        except asyncio.CancelledError:
            build.fail("the build was stopped: its template was deleted, or the node agent was")
            raise
        except Exception as error:
            build.fail(f"internal error in step '{build.step}': {type(error).__name__}; see `journalctl -u cubelet`")
            raise
        else:
            log.info("build_ready", build_id=build_id)
        if build.state is BuildState.ERROR:
            await self._collect_layers()

    async def _build(self, build: Build) -> None:
        request = build.request
        build_id = BuildId(request.build_id)
        build.say(f"importing {request.image}")
        image = await self._import(build)
        build.say(f"image {image.source_digest[:19]} is {sum(layer.size_bytes for layer in image.layers) >> 20} MiB")
        async with AsyncExitStack() as undo:
            workspace = self._store.workspace(build_id)
            undo.callback(_remove_tree, workspace)
            await self._disks.create_upper(workspace / UPPER, size_mib=request.writable_layer_mib)
            tap = await self._taps.acquire()
            record, spec = await self._prepare_vm(tap, request, image, workspace, undo)
            build.say("booting")
            vm = await self._boot(record, tap, spec, undo)
            guest = GuestClient(tap.address)
            undo.push_async_callback(guest.close)
            await guest.wait_healthy(deadline=self._deadlines.boot)
            version = await guest.init(
                self._machines.identity(
                    record, default_user=image.config.user or None, default_workdir=image.config.working_dir or None
                ),
                deadline=self._deadlines.init,
            )
            build.say(f"guest agent {version} is up")
            build.step = "finalize"
            await self._start_services(build, guest, image.config)
            await self._warm(guest)
            await guest.close()
            build.say("taking the snapshot")
            snapshot = await self._hypervisor.snapshot(vm, workspace, deadline=self._deadlines.boot)
            await self._hypervisor.stop(vm)
            snapshot.device_state.rename(workspace / DEVICE_STATE)
            meta = TemplateMeta(
                template_id=TemplateId(request.template_id),
                build_id=build_id,
                machine=snapshot.machine,
                vcpus=request.vcpus,
                memory_mib=request.memory_mib,
                disk_size_mib=request.writable_layer_mib,
                layers=tuple(layer.path.name for layer in image.layers),
                agent_disk=str(self._guest_image.agent_disk),
                envd_version=version,
                env=_environment(image.config),
                default_user=image.config.user or None,
                default_workdir=image.config.working_dir or None,
                start=_start(request, image.config),
            )
            await asyncio.to_thread(self._store.publish, workspace, meta)
            build.state = BuildState.READY
            build.say("ready")

    async def _import(self, build: Build) -> ImportedImage:
        registry, image = build.request.registry, build.request.image
        if image is None:
            raise InvalidRequest("a build needs an image")
        credentials = RegistryCredentials(registry.username, registry.password) if registry is not None else None
        try:
            async with asyncio.timeout(self._deadlines.image.total_seconds()):
                return await self._images.import_image(image, credentials=credentials, progress=build.say)
        except TimeoutError as error:
            raise DeadlineExceeded("importing the image", self._deadlines.image.total_seconds()) from error

    async def _prepare_vm(
        self, tap: Tap, request: BuildRequest, image: ImportedImage, workspace: Path, undo: AsyncExitStack
    ) -> tuple[VmRecord, VmSpec]:
        vm_id = new_vm_id()
        record = VmRecord(
            vm_id=vm_id,
            template_id=TemplateId(request.template_id),
            build_id=BuildId(request.build_id),
            envd_version="",
            **behind(tap),
            boot_id=self._machines.boot_id,
            stage=Stage.PREPARING,
        )
        self._machines.create_record(record)
        # From here on one call frees tap, process, runtime directory and record, now or after a restart.
        undo.push_async_callback(self._machines.destroy_newest, vm_id)
        # Start commands may download; the fixed denials of CubeVS hold for builds as for sandboxes.
        await self._switch.admit(tap, SandboxId(vm_id), EgressPolicy())
        uid = self._machines.uid_of(tap)
        spec = VmSpec(
            vm_id=vm_id,
            vcpus=request.vcpus,
            memory_mib=request.memory_mib,
            memory_file=workspace / MEMORY,
            disks=guest_disks(
                self._guest_image.agent_disk, workspace / UPPER, tuple(layer.path for layer in image.layers)
            ),
            nic=None,
            runtime_dir=self._machines.make_runtime_dir(vm_id),
            confinement=Confinement(uid=uid, gid=uid),
        )
        return record, spec

    async def _boot(self, record: VmRecord, tap: Tap, spec: VmSpec, undo: AsyncExitStack) -> VmProcess:
        vm = await self._boots.boot(spec, tap)
        undo.push_async_callback(self._hypervisor.stop, vm)
        self._machines.save(record.model_copy(update={"process": vm}))
        return vm

    async def _start_services(self, build: Build, guest: GuestClient, config: ImageConfig) -> None:
        request = build.request
        argv = start_command(request.start_cmd, config)
        if argv is not None:
            build.say(f"starting {shlex.join(argv)}")
            await guest.start(
                argv,
                deadline=self._deadlines.init,
                user=config.user or None,
                envs=_environment(config),
                cwd=config.working_dir or None,
            )
        deadline = self._deadlines.ready.total_seconds()
        try:
            async with asyncio.timeout(deadline):
                if request.probe_port is not None:
                    build.say(f"waiting for an HTTP answer on port {request.probe_port}")
                    await _until_answering(guest, request.probe_port)
                if request.ready_cmd is not None:
                    build.say(f"waiting for: {request.ready_cmd}")
                    await _until_success(guest, request.ready_cmd)
        except TimeoutError as error:
            what = f"port {request.probe_port}" if request.ready_cmd is None else f"`{request.ready_cmd}`"
            raise GuestFailure(
                f"the template did not become ready within {deadline:g} s: {what} never succeeded"
            ) from error

    async def _warm(self, guest: GuestClient) -> None:
        try:
            for _ in range(2):
                await guest.run(WARM_UP, deadline=self._deadlines.init)
        except GuestFailure as error:
            log.debug("warm_up_without_shell", error=error.message)


def start_command(start_cmd: str | None, config: ImageConfig) -> tuple[str, ...] | None:
    """Return what to run: the caller's shell command, else the image's own entrypoint and command, else nothing.

    An image whose command is a bare shell, as most base images have it, has nothing to start.
    """
    if start_cmd is not None:
        return ("/bin/bash", "-l", "-c", start_cmd)
    argv = (*config.entrypoint, *config.cmd)
    if not argv or (len(argv) == 1 and argv[0].rsplit("/", 1)[-1] in {"sh", "bash", "ash", "python3", "node"}):
        return None
    return argv


def _start(request: BuildRequest, config: ImageConfig) -> StartCommand | None:
    """Return what the build starts, for sandboxes that are booted."""
    argv = start_command(request.start_cmd, config)
    if argv is None:
        return None
    return StartCommand(
        argv=argv, user=config.user or None, env=_environment(config), working_dir=config.working_dir or None
    )


def _environment(config: ImageConfig) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in config.env if "=" in entry)


async def _until_answering(guest: GuestClient, port: int) -> None:
    """Return when a service answers below 500. Nobody tells us when a stranger's service is up, so ask."""
    while True:
        status = await guest.http_status(port, "/health", deadline=timedelta(seconds=10))
        if status is not None and status < 500:
            return
        await asyncio.sleep(0.25)


async def _until_success(guest: GuestClient, command: str) -> None:
    """Run a ready command every two seconds, as E2B does, until it exits 0."""
    while True:
        result = await guest.run(("/bin/bash", "-l", "-c", command), deadline=timedelta(seconds=60))
        if result.exit_code == 0:
            return
        await asyncio.sleep(2)


def _remove_tree(path: Path) -> None:
    # A published workspace has been renamed away and is no longer here.
    shutil.rmtree(path, ignore_errors=True)
