"""This node: health, status and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from appliance.contracts.node import NodeStatus
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.node import Node
from appliance.cubevs.base import Switch


def router(node: Node, switch: Switch, metrics: CubeletMetrics, registry: CollectorRegistry) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health", status_code=204)
    async def health() -> Response:
        return Response(status_code=204)

    @routes.get("/v1/node")
    async def status() -> NodeStatus:
        return node.status()

    @routes.get("/metrics")
    async def expose() -> Response:
        metrics.drops.update(await switch.drops())
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes
