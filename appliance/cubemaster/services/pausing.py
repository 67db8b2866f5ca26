"""Pause: a running sandbox goes to its node's disk, and gives back what it held of the node."""

from __future__ import annotations

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.contracts.node import Pause
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.route_table import RouteTable
from appliance.cubemaster.services.settling import Settling
from appliance.domain.errors import SandboxNotFound
from appliance.domain.sandbox import VISIBLE, Sandbox


class Pausing:
    def __init__(
        self, *, database: Database, nodes: NodeClients, routes: RouteTable, settling: Settling, clock: Clock
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._routes = routes
        self._settling = settling
        self._clock = clock

    async def pause(self, sandbox_id: str, pause: Pause, *, team_id: str | None) -> None:
        """Pause it, or raise and leave it running; where the node does not answer, what it did shows later."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> Sandbox:
            before = uow.sandboxes.find(sandbox_id, team_id=team_id, lock=True)
            if before is None:
                raise SandboxNotFound(sandbox_id)
            after = before.pausing(at=now)
            uow.sandboxes.save(after, was=before.state)
            return after

        sandbox = await self._database.transact(work)
        reach("pause:written")
        # Before it is frozen: a request that came now would hang.
        await self._routes.publish(sandbox)
        reach("pause:withdrawn")
        async with self._settling.failures_of(sandbox):
            with naming(sandbox.node_id):
                client = await self._nodes.get(sandbox.node_id)
                await client.pause_sandbox(sandbox.sandbox_id, pause)
                reach("pause:carried-out")
                settled = await self._settling.ask(sandbox)
        if settled.state not in VISIBLE:
            # Killed meanwhile.
            raise SandboxNotFound(sandbox_id)
