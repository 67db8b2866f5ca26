"""Template builds of this node: which there are, how far they are, and their end."""

from __future__ import annotations

import asyncio

import structlog

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.contracts.node import BuildProgress, BuildRequest, BuildState
from appliance.cubelet.builds.admission import admitted_steps
from appliance.cubelet.builds.builder import Builder
from appliance.cubelet.builds.progress import Build
from appliance.cubelet.builds.step_cache import StepCache
from appliance.cubelet.runtime import RecordStore
from appliance.cubelet.services.template_store import TemplateStore
from appliance.domain.errors import BuildNotFound, CubeError
from appliance.domain.ids import BuildId, TemplateId
from appliance.storage.base import ImageStore

log = structlog.get_logger()


class Templates:
    """Runs builds, one at a time: a build uses all the node has, and two only slow each other."""

    def __init__(
        self,
        *,
        builder: Builder,
        images: ImageStore,
        store: TemplateStore,
        records: RecordStore,
        step_cache: StepCache,
        supervisor: Supervisor,
        clock: Clock,
    ) -> None:
        self._builder = builder
        self._images = images
        self._store = store
        self._records = records
        self._step_cache = step_cache
        self._supervisor = supervisor
        self._clock = clock
        self._builds: dict[BuildId, Build] = {}
        self._one_at_a_time = asyncio.Lock()

    def start(self, request: BuildRequest) -> None:
        """Begin a build in the background. One that is running or ready is left as it is; a failed one starts anew."""
        steps = admitted_steps(request)
        build_id = BuildId(request.build_id)
        known = self._builds.get(build_id)
        if self._store.get(build_id) is not None or (known is not None and known.state is BuildState.BUILDING):
            return
        build = Build(request=request, steps=steps, clock=self._clock)
        self._builds[build_id] = build
        build.work = self._supervisor.spawn(self._run(build), name=f"build-{build_id}")

    def progress(self, build_id: BuildId, log_offset: int) -> BuildProgress:
        """Return what has happened since `log_offset` entries. Raises BuildNotFound."""
        build, template = self._builds.get(build_id), self._store.get(build_id)
        if build is None and template is None:
            raise BuildNotFound(build_id)
        # What is published is ready, whatever went wrong with the clearing up.
        ready = template is not None and (build is None or build.state is not BuildState.BUILDING)
        meta = template.meta if ready and template is not None else None
        failed = build is not None and not ready and build.reason is not None
        return BuildProgress(
            build_id=build_id,
            state=BuildState.READY if ready else build.state if build is not None else BuildState.ERROR,
            logs=tuple(build.logs[log_offset:]) if build is not None else (),
            reason=build.reason if failed and build is not None else None,
            step=build.step if failed and build is not None else None,
            disk_size_mib=meta.disk_size_mib if meta is not None else None,
            envd_version=meta.envd_version if meta is not None else None,
            layers=meta.layers if meta is not None else (),
        )

    async def delete(self, build_id: BuildId, *, template_id: TemplateId) -> None:
        """Remove a build, stopping it if it runs, and what nothing else uses any more. Absent builds are success."""
        build = self._builds.get(build_id)
        if build is not None:
            if build.work is not None and not build.work.done():
                build.work.cancel()
                await asyncio.wait({build.work})
            self._builds.pop(build_id, None)
        await asyncio.to_thread(self._store.delete, build_id)
        # Another build delays this, and nobody has to wait for it.
        self._supervisor.spawn(self._collect(template_id), name=f"collect-{build_id}")

    async def _collect(self, template_id: TemplateId) -> None:
        await self._collect_layers()
        async with self._one_at_a_time:
            builds = [template.template_id for template in self._store.all()]
            builds += [TemplateId(build.request.template_id) for build in self._builds.values()]
            if template_id not in builds:
                await self._step_cache.drop_template(template_id)

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
                await self._builder.run(build)
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
            build.state = BuildState.READY
            build.say("ready")
            log.info("build_ready", build_id=build_id)
        if build.state is BuildState.ERROR:
            await self._collect_layers()
