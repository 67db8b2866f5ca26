"""The one way in which a sandbox ends: reason, reservation and event in one transaction, then its route."""

from __future__ import annotations

from datetime import datetime

import structlog

from appliance.common.failpoints import reach
from appliance.cubemaster.metrics import Metrics
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.route_table import RouteTable
from appliance.domain.ids import NodeId
from appliance.domain.sandbox import EndReason, Sandbox, SandboxState

log = structlog.get_logger()


class Endings:
    def __init__(self, database: Database, routes: RouteTable, metrics: Metrics) -> None:
        self._database = database
        self._routes = routes
        self._metrics = metrics

    async def end(
        self, sandbox_id: str, reason: EndReason, *, detail: str, at: datetime, node_id: NodeId | None = None
    ) -> Sandbox | None:
        """End the sandbox and return it; None if it has ended before, which keeps its first reason.

        With `node_id`, only if it is on that node: a node speaks for its own sandboxes.
        """

        def work(uow: UnitOfWork) -> Sandbox | None:
            sandbox = uow.sandboxes.find(sandbox_id, lock=True)
            if sandbox is None or sandbox.state is SandboxState.ENDED:
                return None
            if node_id is not None and sandbox.node_id != node_id:
                return None
            ended = sandbox.ended(reason, detail=detail, at=at)
            uow.sandboxes.save(ended, was=sandbox.state)
            if sandbox.volumes:
                uow.volumes.release(sandbox.sandbox_id)
            uow.nodes.release(sandbox, ended)
            uow.events.add(
                "sandbox_ended",
                at=at,
                team_id=sandbox.team_id,
                sandbox_id=sandbox.sandbox_id,
                node_id=sandbox.node_id,
                detail={"reason": str(ended.end.reason if ended.end else reason), "detail": detail},
            )
            return ended

        ended = await self._database.transact(work)
        if ended is not None and ended.end is not None:
            reach("end:written")
            await self._routes.publish(ended)
            self._metrics.ended.labels(reason=ended.end.reason).inc()
            log.info("sandbox_ended", sandbox_id=sandbox_id, reason=ended.end.reason, detail=detail)
        return ended
