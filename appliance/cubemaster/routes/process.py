"""What concerns the process itself: whether it lives, and what it counted."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from appliance.cubemaster.metrics import Metrics


def process_router(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/health", status_code=204)
    async def health() -> Response:
        return Response(status_code=204)

    @router.get("/metrics")
    async def read_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
