from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter

from appliance.contracts.node import MetricSample
from appliance.cubemaster.mapping import aware
from appliance.cubemaster.services.sandbox_metrics import SandboxMetrics


def sandbox_metrics_router(metrics: SandboxMetrics) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/sandboxes/{sandbox_id}/metrics")
    async def between(
        sandbox_id: str, team_id: str | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> list[MetricSample]:
        return await metrics.between(
            sandbox_id, team_id=team_id, start=aware(start) if start else None, end=aware(end) if end else None
        )

    @router.get("/sandbox-metrics")
    async def latest(sandbox_ids: str, team_id: str | None = None) -> dict[str, MetricSample]:
        return await metrics.latest([one for one in sandbox_ids.split(",") if one], team_id=team_id)

    return router
