"""What sandboxes of this node use."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter

from appliance.contracts.node import MetricSample
from appliance.cubelet.mapping import metric_sample
from appliance.cubelet.services.sampler import Sampler
from appliance.domain.ids import SandboxId


def router(sampler: Sampler) -> APIRouter:
    routes = APIRouter(prefix="/v1")

    @routes.get("/sandboxes/{sandbox_id}/metrics")
    async def between(
        sandbox_id: str, start: datetime | None = None, end: datetime | None = None
    ) -> list[MetricSample]:
        return [metric_sample(one) for one in sampler.between(SandboxId(sandbox_id), start=start, end=end)]

    @routes.get("/sandbox-metrics")
    async def latest(sandbox_ids: str) -> dict[str, MetricSample]:
        newest = {one: sampler.latest(SandboxId(one)) for one in sandbox_ids.split(",")}
        return {sandbox_id: metric_sample(sample) for sandbox_id, sample in newest.items() if sample is not None}

    return routes
