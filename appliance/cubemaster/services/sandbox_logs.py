"""What sandboxes said. Their nodes collect and keep it; here it is found and held to the team that asks."""

from __future__ import annotations

from datetime import datetime

from appliance.contracts.node import SandboxLogEntry
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.cubemaster.services.sandboxes import SandboxService


class SandboxLogs:
    def __init__(self, sandboxes: SandboxService, nodes: NodeClients) -> None:
        self._sandboxes = sandboxes
        self._nodes = nodes

    async def read(
        self,
        sandbox_id: str,
        *,
        team_id: str | None,
        at: datetime | None,
        backward: bool,
        limit: int,
        level: str | None,
        search: str | None,
    ) -> list[SandboxLogEntry]:
        """Return entries of a sandbox in whatever state, for as long as its node keeps them."""
        sandbox = await self._sandboxes.get(sandbox_id, team_id=team_id, ended=True)
        node = await self._nodes.get(sandbox.node_id)
        return await node.get_logs(sandbox_id, at=at, backward=backward, limit=limit, level=level, search=search)
