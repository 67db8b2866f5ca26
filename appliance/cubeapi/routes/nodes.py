"""Nodes, for the operator: E2B's routes. CubeProxy refuses them from outside unless its inventory lets them through."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from fastapi import APIRouter, Depends, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_admin as e2b
from appliance.cubeapi import mapping_admin as mapping
from appliance.cubeapi.auth import Authenticator
from appliance.domain.errors import NodeNotFound


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter(prefix="/nodes", dependencies=[Depends(authenticate.operator)])

    @routes.get("")
    async def list_all(clusterID: str | None = None) -> list[e2b.Node]:  # noqa: N803  # the wire's name
        if not mapping.is_our_cluster(clusterID):
            return []
        return [mapping.node(view) for view in await master.list_nodes()]

    @routes.get("/{node_id}")
    async def get(node_id: str, clusterID: str | None = None) -> e2b.Node:  # noqa: N803  # the wire's name
        wanted = mapping.node_id(node_id)
        if mapping.is_our_cluster(clusterID):
            for view in await master.list_nodes():
                if view.node_id == wanted:
                    return mapping.node(view)
        raise NodeNotFound(wanted)

    @routes.post("/{node_id}", status_code=204)
    async def change(node_id: str, body: e2b.NodeStatusChange) -> Response:
        wanted = mapping.node_id(node_id)
        if not mapping.is_our_cluster(body.clusterID):
            raise NodeNotFound(wanted)
        await master.set_draining(wanted, draining=mapping.draining(body))
        return Response(status_code=204)

    return routes
