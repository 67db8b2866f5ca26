from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.master import NodeView
from appliance.contracts.node import EndedSandbox, NodeStatus
from appliance.contracts.teams import NodeDraining
from appliance.cubemaster.mapping import node_view
from appliance.cubemaster.services.nodes import NodeService
from appliance.domain.errors import InvalidRequest
from appliance.domain.ids import NodeId


def nodes_router(nodes: NodeService) -> APIRouter:
    router = APIRouter(prefix="/v1/nodes")

    @router.get("")
    async def list_all() -> list[NodeView]:
        return [node_view(one.usage, one.activity) for one in await nodes.all()]

    @router.put("/{node_id}/draining", status_code=204)
    async def set_draining(node_id: str, new: NodeDraining) -> Response:
        await nodes.set_draining(NodeId(node_id), draining=new.draining)
        return Response(status_code=204)

    @router.post("/{node_id}/heartbeat", status_code=204)
    async def heartbeat(node_id: str, status: NodeStatus) -> Response:
        if status.node_id != node_id:
            raise InvalidRequest(f"node '{status.node_id}' sent a heartbeat as '{node_id}'")
        await nodes.heartbeat(status)
        return Response(status_code=204)

    @router.post("/{node_id}/ended", status_code=204)
    async def ended(node_id: str, sandboxes: list[EndedSandbox]) -> Response:
        await nodes.ended(NodeId(node_id), sandboxes)
        return Response(status_code=204)

    return router
