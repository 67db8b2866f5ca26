"""Gives up nodes that fell silent, and ends what ran on them. What is paused is on their disks, and stays."""

from __future__ import annotations

from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.services.settling import Settling
from appliance.domain.ids import NodeId
from appliance.domain.node import HeartbeatWatch

log = structlog.get_logger()


class LostNodeReconciler:
    def __init__(self, database: Database, settling: Settling, clock: Clock, *, lost_after: timedelta) -> None:
        self._database = database
        self._settling = settling
        self._clock = clock
        self._lost_after = lost_after
        self._watch = HeartbeatWatch(lost_after)

    async def step(self) -> None:
        try:
            counters = await self._database.transact(lambda uow: uow.nodes.heartbeat_counters())
        except Exception:
            # Without a database no heartbeat is recorded either: that silence is ours.
            self._watch.restart()
            raise
        for node_id in self._watch.silent(counters, at=self._clock.monotonic()):
            await self._give_up(node_id, counters[node_id])

    async def _give_up(self, node_id: NodeId, heartbeats: int) -> None:
        now = self._clock.now()
        if not await self._database.transact(lambda uow: uow.nodes.mark_lost(node_id, heartbeats=heartbeats, now=now)):
            return
        live = await self._database.transact(lambda uow: uow.sandboxes.live_on(node_id))
        log.error("node_lost", node_id=node_id, sandboxes=len(live))
        detail = f"no heartbeat of node '{node_id}' for {self._lost_after.total_seconds():g} s"
        for sandbox in live:
            await self._settling.lose(sandbox, detail=detail)
