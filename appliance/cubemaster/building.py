"""The part of CubeMaster that makes templates and builds them, put together."""

from __future__ import annotations

from datetime import timedelta

from fastapi import FastAPI

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.cubemaster.metrics import Metrics
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.reconcilers.availability import while_available
from appliance.cubemaster.reconcilers.builds import BuildReconciler
from appliance.cubemaster.reconcilers.deleted_templates import DeletedTemplateReconciler
from appliance.cubemaster.routes.builds import builds_router
from appliance.cubemaster.routes.tags import tags_router
from appliance.cubemaster.routes.template_builds import template_builds_router
from appliance.cubemaster.routes.template_files import template_files_router
from appliance.cubemaster.routes.templates import templates_router
from appliance.cubemaster.services.build_bases import BuildBases
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.cubemaster.services.file_store import FileStore
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.tags import TagService
from appliance.cubemaster.services.template_builds import BuildSizes, TemplateBuilds
from appliance.cubemaster.services.template_files import FileLimits, TemplateFiles
from appliance.cubemaster.services.templates import TemplateService
from appliance.cubemaster.settings import CubeMasterSettings
from appliance.domain.upload_leave import UploadSigner

_DELETED_INTERVAL = timedelta(seconds=2)


class Building:
    def __init__(
        self,
        settings: CubeMasterSettings,
        *,
        database: Database,
        catalogue: Catalogue,
        nodes: NodeClients,
        quota: Quota,
        clock: Clock,
        metrics: Metrics,
        seed: str,
    ) -> None:
        builds, files = settings.builds, settings.files
        self._tidy_interval = timedelta(seconds=builds.tidy_interval_s)
        self._poll_interval = timedelta(seconds=builds.poll_interval_s)
        self._draft_lifetime = timedelta(seconds=builds.draft_lifetime_s)
        self._store = FileStore(
            settings.data_dir / "template-files",
            reserve_bytes=files.reserve_bytes,
            idle=timedelta(seconds=files.idle_s),
        )
        self._files = TemplateFiles(
            database=database,
            catalogue=catalogue,
            store=self._store,
            signer=UploadSigner(seed),
            clock=clock,
            limits=FileLimits(
                max_bytes=files.max_bytes,
                team_max_bytes=files.team_max_bytes,
                keep_unused=timedelta(days=files.keep_unused_days),
                keep_deleted=2 * self._draft_lifetime,
            ),
        )
        self._builds = TemplateBuilds(
            database=database,
            bases=BuildBases(catalogue, internal_registries=builds.internal_registries),
            files=self._files,
            quota=quota,
            clock=clock,
            max_drafts=builds.max_drafts,
            sizes=BuildSizes(
                default_vcpus=builds.default_vcpus,
                default_memory_mib=builds.default_memory_mib,
                steps_room_mib=builds.steps_room_mib,
                max_vcpus=builds.max_vcpus,
                max_memory_mib=builds.max_memory_mib,
                max_free_disk_mib=builds.max_free_disk_mib,
            ),
        )
        self._templates = TemplateService(database, catalogue, clock, quota)
        self._tags = TagService(database, catalogue, clock)
        self._running = BuildReconciler(database, nodes, clock, metrics, deadline=timedelta(seconds=builds.deadline_s))
        self._deleted = DeletedTemplateReconciler(database, nodes)

    def add_routes(self, app: FastAPI) -> None:
        app.include_router(templates_router(self._templates))
        app.include_router(builds_router(self._templates))
        app.include_router(tags_router(self._tags))
        app.include_router(template_builds_router(self._builds))
        app.include_router(template_files_router(self._files))

    async def start(self, background: Supervisor) -> None:
        """Clear what a former process left, and begin the loops."""
        await self._store.remove_leftovers()
        background.every(self._poll_interval, while_available(self._running.step), name="builds")
        background.every(_DELETED_INTERVAL, while_available(self._deleted.step), name="deleted templates")
        background.every(self._tidy_interval, while_available(self._expire_drafts), name="drafts")
        background.every(self._tidy_interval, while_available(self._files.collect), name="template files")

    async def _expire_drafts(self) -> None:
        await self._builds.expire_drafts(older_than=self._draft_lifetime)
