"""Template builds on this node."""

from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.node import BuildProgress, BuildRequest
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.sandboxes import Sandboxes
from appliance.cubelet.services.templates import Templates
from appliance.domain.ids import BuildId, TemplateId


def router(templates: Templates, sandboxes: Sandboxes, pool: Pool) -> APIRouter:
    routes = APIRouter(prefix="/v1")

    @routes.post("/builds", status_code=202)
    async def start(body: BuildRequest) -> Response:
        templates.start(body)
        return Response(status_code=202)

    @routes.get("/builds/{build_id}")
    async def progress(build_id: str, log_offset: int = 0) -> BuildProgress:
        return templates.progress(BuildId(build_id), log_offset)

    @routes.delete("/templates/{template_id}/builds/{build_id}", status_code=204)
    async def delete(template_id: str, build_id: str) -> Response:
        sandboxes.refuse_delete_of(BuildId(build_id))
        await templates.delete(BuildId(build_id), template_id=TemplateId(template_id))
        await pool.drop(BuildId(build_id))
        return Response(status_code=204)

    return routes
