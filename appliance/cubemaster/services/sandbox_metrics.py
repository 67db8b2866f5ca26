"""What sandboxes use. Their nodes measure and keep it; here it is found and held to the team that asks."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

import structlog

from appliance.contracts.node import MetricSample
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.domain.errors import CubeError, SandboxNotFound
from appliance.domain.ids import NodeId, SandboxId
from appliance.domain.sandbox import VISIBLE

log = structlog.get_logger()


class SandboxMetrics:
    def __init__(self, database: Database, nodes: NodeClients) -> None:
        self._database = database
        self._nodes = nodes

    async def between(
        self, sandbox_id: str, *, team_id: str | None, start: datetime | None, end: datetime | None
    ) -> list[MetricSample]:
        """Return a sandbox's samples of a time, oldest first."""
        sandbox = await self._database.transact(lambda uow: uow.sandboxes.find(sandbox_id, team_id=team_id))
        if sandbox is None or sandbox.state not in VISIBLE:
            raise SandboxNotFound(sandbox_id)
        client = await self._nodes.get(sandbox.node_id)
        return await client.get_metrics(sandbox_id, start=start, end=end)

    async def latest(self, sandbox_ids: Collection[str], *, team_id: str | None) -> dict[str, MetricSample]:
        """Return the newest sample of each. Those of a node that does not answer are missing, as unknown ones are."""
        found = await self._database.transact(lambda uow: uow.sandboxes.find_several(sandbox_ids, team_id=team_id))
        by_node: dict[NodeId, list[SandboxId]] = defaultdict(list)
        for sandbox in found:
            if sandbox.state in VISIBLE:
                by_node[sandbox.node_id].append(sandbox.sandbox_id)
        answers = await asyncio.gather(*(self._ask(node, wanted) for node, wanted in by_node.items()))
        return {sandbox_id: sample for answer in answers for sandbox_id, sample in answer.items()}

    async def _ask(self, node_id: NodeId, sandbox_ids: Sequence[SandboxId]) -> dict[str, MetricSample]:
        try:
            client = await self._nodes.get(node_id)
            return await client.latest_metrics(sandbox_ids)
        except CubeError as error:
            log.warning("metrics_of_node_missing", node_id=node_id, error=error.message)
            return {}
