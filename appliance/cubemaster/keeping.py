"""The part of CubeMaster that keeps volumes, put together."""

from __future__ import annotations

from datetime import timedelta

from fastapi import FastAPI

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.reconcilers.availability import while_available
from appliance.cubemaster.reconcilers.volumes import VolumeReconciler
from appliance.cubemaster.routes.volumes import volumes_router
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.tokens import VolumeTokens
from appliance.cubemaster.services.volume_content import VolumeContent
from appliance.cubemaster.services.volumes import VolumeService
from appliance.cubemaster.settings import VolumeSettings

_UNFINISHED_INTERVAL = timedelta(seconds=5)


class Keeping:
    """`create_limit` is longer than any create of a volume takes."""

    def __init__(
        self,
        settings: VolumeSettings,
        *,
        database: Database,
        nodes: NodeClients,
        quota: Quota,
        clock: Clock,
        create_limit: timedelta,
        seed: str,
    ) -> None:
        self._sweep_interval = timedelta(seconds=settings.sweep_interval_s)
        self._tokens = VolumeTokens(seed)
        self._volumes = VolumeService(
            database=database,
            nodes=nodes,
            quota=quota,
            clock=clock,
            size_mib=settings.size_mib,
            create_limit=create_limit,
        )
        self._content = VolumeContent(self._volumes, nodes, self._tokens, idle=timedelta(seconds=settings.idle_s))
        self._reconciler = VolumeReconciler(
            database, nodes, self._volumes, clock, unknown_grace=timedelta(seconds=settings.unknown_grace_s)
        )

    def add_routes(self, app: FastAPI) -> None:
        app.include_router(volumes_router(self._volumes, self._content, self._tokens))

    def start(self, background: Supervisor) -> None:
        background.every(_UNFINISHED_INTERVAL, while_available(self._reconciler.step), name="unfinished volumes")
        background.every(self._sweep_interval, while_available(self._reconciler.sweep), name="volumes on nodes")
