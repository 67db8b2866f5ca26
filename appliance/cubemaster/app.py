"""Everything CubeMaster is made of, put together by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from fastapi import FastAPI
from redis.asyncio import Redis

import appliance
from appliance.common.clock import Clock, SystemClock
from appliance.common.http import install_error_handlers
from appliance.common.supervisor import Supervisor
from appliance.cubemaster.building import Building
from appliance.cubemaster.keeping import Keeping
from appliance.cubemaster.metrics import Metrics
from appliance.cubemaster.persistence.database import Database, database_url, make_engine
from appliance.cubemaster.reconcilers.availability import while_available
from appliance.cubemaster.reconcilers.lost_nodes import LostNodeReconciler
from appliance.cubemaster.reconcilers.unfinished_sandboxes import UnfinishedSandboxReconciler
from appliance.cubemaster.routes.keys import keys_router
from appliance.cubemaster.routes.lifecycle import lifecycle_router
from appliance.cubemaster.routes.nodes import nodes_router
from appliance.cubemaster.routes.process import process_router
from appliance.cubemaster.routes.sandbox_logs import sandbox_logs_router
from appliance.cubemaster.routes.sandbox_metrics import sandbox_metrics_router
from appliance.cubemaster.routes.sandboxes import sandboxes_router
from appliance.cubemaster.routes.snapshots import snapshots_router
from appliance.cubemaster.routes.teams import teams_router
from appliance.cubemaster.ruling import Ruling
from appliance.cubemaster.services.captures import Captures
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.cubemaster.services.endings import Endings
from appliance.cubemaster.services.forks import ForkService
from appliance.cubemaster.services.key_uses import KeyUses
from appliance.cubemaster.services.keys import KeyService
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.cubemaster.services.nodes import NodeService
from appliance.cubemaster.services.pausing import Pausing
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.resuming import Resuming
from appliance.cubemaster.services.rollbacks import Rollbacks
from appliance.cubemaster.services.route_table import RouteTable
from appliance.cubemaster.services.sandbox_logs import SandboxLogs
from appliance.cubemaster.services.sandbox_metrics import SandboxMetrics
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.cubemaster.services.settling import Settling
from appliance.cubemaster.services.snapshots import SnapshotService
from appliance.cubemaster.services.team_metrics import TeamMetrics
from appliance.cubemaster.services.team_orders import TeamOrders
from appliance.cubemaster.services.teams import TeamService
from appliance.cubemaster.services.tokens import SandboxTokens
from appliance.cubemaster.settings import CubeMasterSettings, QuotaSettings
from appliance.domain.team import Limits

_NODE_WATCH_INTERVAL = timedelta(seconds=1)
_UNFINISHED_INTERVAL = timedelta(seconds=2)
_KEY_USES_INTERVAL = timedelta(seconds=2)
_CALL_MARGIN = timedelta(seconds=15)
"""What a create, pause, resume, snapshot or rollback may take besides the node's part."""


@dataclass(frozen=True, slots=True)
class Secrets:
    envd_seed: str = field(repr=False)
    secrets_key: str = field(repr=False)
    mysql_password: str | None = field(repr=False)
    redis_password: str | None = field(repr=False)


def create_app(
    settings: CubeMasterSettings,
    secrets: Secrets,
    *,
    clock: Clock | None = None,
) -> FastAPI:
    """Return the app. Its loops run while its lifespan does."""
    clock = clock or SystemClock()
    metrics = Metrics()
    background = Supervisor()
    database = _database(settings, secrets)
    redis = _redis(settings, secrets)
    create_deadline = timedelta(seconds=settings.nodes.create_deadline_s)
    save_deadline = timedelta(seconds=settings.nodes.save_deadline_s)
    nodes = NodeClients(
        database,
        deadline=timedelta(seconds=settings.nodes.call_deadline_s),
        create_deadline=create_deadline,
        save_deadline=save_deadline,
    )
    catalogue = Catalogue(clock)
    tokens = SandboxTokens(secrets.envd_seed)
    route_table = RouteTable(redis, database, tokens)
    endings = Endings(database, route_table, metrics)
    settling = Settling(database=database, nodes=nodes, routes=route_table, endings=endings, clock=clock)
    quota = Quota(_default_limits(settings.quotas))
    ruling = Ruling(database, secrets.secrets_key, domain=settings.domain, clock=clock)
    sandboxes = SandboxService(
        database=database,
        catalogue=catalogue,
        nodes=nodes,
        routes=route_table,
        endings=endings,
        settling=settling,
        clock=clock,
        metrics=metrics,
        policies=ruling.policies,
        quota=quota,
        tokens=tokens,
        create_deadline=create_deadline,
    )
    resuming = Resuming(
        database=database,
        nodes=nodes,
        sandboxes=sandboxes,
        settling=settling,
        clock=clock,
        policies=ruling.policies,
        quota=quota,
        access_token=tokens.access,
    )
    captures = Captures(
        database=database, nodes=nodes, settling=settling, clock=clock, call_limit=save_deadline + _CALL_MARGIN
    )
    node_service = NodeService(
        database=database,
        nodes=nodes,
        endings=endings,
        settling=settling,
        background=background,
        clock=clock,
        metrics=metrics,
        missing_grace=timedelta(seconds=settings.nodes.missing_grace_s),
        access_token=tokens.access,
        send_egress=sandboxes.send_egress,
    )
    lost_nodes = LostNodeReconciler(
        database, settling, clock, lost_after=timedelta(seconds=settings.nodes.lost_after_s)
    )
    unfinished = UnfinishedSandboxReconciler(
        database,
        sandboxes,
        settling,
        clock,
        create_limit=create_deadline + _CALL_MARGIN,
        change_limit=save_deadline + _CALL_MARGIN,
    )
    building = Building(
        settings,
        database=database,
        catalogue=catalogue,
        nodes=nodes,
        quota=quota,
        clock=clock,
        metrics=metrics,
        seed=secrets.envd_seed,
    )
    key_uses = KeyUses(database)
    keeping = Keeping(
        settings.volumes,
        database=database,
        nodes=nodes,
        quota=quota,
        clock=clock,
        create_limit=create_deadline + _CALL_MARGIN,
        seed=secrets.envd_seed,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with background:
                background.every(
                    timedelta(seconds=settings.route_check_interval_s),
                    while_available(route_table.check),
                    name="routes",
                )
                background.every(_NODE_WATCH_INTERVAL, while_available(lost_nodes.step), name="lost nodes")
                background.every(_UNFINISHED_INTERVAL, while_available(unfinished.step), name="unfinished sandboxes")
                background.every(_UNFINISHED_INTERVAL, while_available(captures.step), name="unfinished captures")
                ruling.start(background)
                await building.start(background)
                background.every(_KEY_USES_INTERVAL, while_available(key_uses.step), name="uses of keys")
                keeping.start(background)
                yield
        finally:
            await nodes.close()
            await redis.aclose()
            database.close()

    app = FastAPI(title="CubeMaster", version=appliance.__version__, lifespan=lifespan, openapi_url=None, docs_url=None)
    install_error_handlers(app)
    rollbacks = Rollbacks(
        database=database,
        nodes=nodes,
        routes=route_table,
        settling=settling,
        clock=clock,
        policies=ruling.policies,
        access_token=tokens.access,
    )
    forks = ForkService(
        database=database,
        captures=captures,
        sandboxes=sandboxes,
        policies=ruling.policies,
        quota=quota,
        clock=clock,
    )
    for router in (
        process_router(metrics),
        sandboxes_router(sandboxes, ruling.policies, tokens),
        lifecycle_router(
            sandboxes,
            route_table,
            tokens,
            Pausing(database=database, nodes=nodes, routes=route_table, settling=settling, clock=clock),
            resuming,
        ),
        snapshots_router(SnapshotService(database, catalogue, captures), forks, rollbacks, tokens),
        sandbox_metrics_router(SandboxMetrics(database, nodes)),
        sandbox_logs_router(SandboxLogs(sandboxes, nodes)),
        keys_router(KeyService(database, clock, key_uses)),
        teams_router(
            TeamService(database, quota, clock),
            TeamOrders(database, sandboxes, clock),
            TeamMetrics(database, clock),
        ),
        nodes_router(node_service),
    ):
        app.include_router(router)
    ruling.add_routes(app)
    building.add_routes(app)
    keeping.add_routes(app)
    return app


def _database(settings: CubeMasterSettings, secrets: Secrets) -> Database:
    url = database_url(
        socket=settings.database.socket,
        name=settings.database.name,
        user=settings.database.user,
        password=secrets.mysql_password,
    )
    connections = settings.database.connections
    return Database(make_engine(url, connections=connections), connections=connections)


def _redis(settings: CubeMasterSettings, secrets: Secrets) -> Redis:
    return Redis(
        unix_socket_path=str(settings.redis.socket),
        username=settings.redis.username,
        password=secrets.redis_password,
        # RouteTable bounds every use. redis-py would bound each send by wait_for, which on Python 3.11 makes a task a
        # send, and may swallow the cancellation that ends a loop.
        socket_timeout=None,
    )


def _default_limits(quotas: QuotaSettings) -> Limits:
    return Limits(
        sandboxes=quotas.concurrent_sandboxes or None,
        vcpus=quotas.vcpus or None,
        memory_mib=quotas.memory_mib or None,
        disk_mib=quotas.disk_mib or None,
        builds=quotas.concurrent_builds or None,
        volumes=quotas.volumes or None,
    )
