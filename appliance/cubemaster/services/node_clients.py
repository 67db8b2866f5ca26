"""One client for each node, kept as long as the node stays where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from appliance.clients.node import NodeClient
from appliance.common.http import InternalClient
from appliance.cubemaster.persistence.database import Database
from appliance.domain.errors import NodeNotFound, NodeUnreachable, Unavailable
from appliance.domain.ids import NodeId


@contextmanager
def naming(node_id: NodeId) -> Iterator[None]:
    """Name the node in what is raised where it does not answer; what it says for itself stays as it is."""
    try:
        yield
    except Unavailable as error:
        if type(error) is not Unavailable:
            raise
        # Without the client's advice: its service is on another machine, and NodeUnreachable has better advice.
        raise NodeUnreachable(node_id, error.message.partition(";")[0]) from error


class NodeClients:
    def __init__(self, database: Database, *, deadline: timedelta, create_deadline: timedelta) -> None:
        self._database = database
        self._deadline = deadline
        self._create_deadline = create_deadline
        self._open: dict[NodeId, tuple[str, InternalClient, NodeClient]] = {}

    async def get(self, node_id: NodeId) -> NodeClient:
        """Return the node's client, or raise NodeNotFound."""
        if node_id not in self._open:
            node = await self._database.transact(lambda uow: uow.nodes.find(node_id))
            if node is None:
                raise NodeNotFound(node_id)
            await self.moved(node_id, node.endpoint)
        return self._open[node_id][2]

    async def moved(self, node_id: NodeId, endpoint: str) -> None:
        """Take note of where the node is now; nothing happens if it is where it was."""
        before = self._open.get(node_id)
        if before is not None and before[0] == endpoint:
            return
        http = InternalClient(endpoint, service="cubelet")
        client = NodeClient(http, deadline=self._deadline, create_deadline=self._create_deadline)
        self._open[node_id] = (endpoint, http, client)
        if before is not None:
            await before[1].close()

    async def close(self) -> None:
        for _, http, _ in self._open.values():
            await http.close()
        self._open.clear()
