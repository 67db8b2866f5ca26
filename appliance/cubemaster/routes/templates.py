from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from appliance.contracts.master import BuildView, NewTemplate, TemplateView
from appliance.contracts.node import BuildLogEntry
from appliance.cubemaster.mapping import build_spec, build_view, template_view
from appliance.cubemaster.services.templates import TemplateService


def templates_router(templates: TemplateService) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/templates", status_code=202)
    async def create(new: NewTemplate) -> BuildView:
        build = await templates.create(build_spec(new), team=new.team, alias=new.alias, public=new.public)
        return build_view(build)

    @router.get("/templates")
    async def list_all(team_id: str | None = None) -> list[TemplateView]:
        return [template_view(one) for one in await templates.all(team_id=team_id)]

    # A reference may hold a slash: `team/alias`.
    @router.get("/templates/{reference:path}")
    async def get(reference: str, team_id: str | None = None) -> TemplateView:
        return template_view(await templates.get(reference, team_id=team_id))

    @router.delete("/templates/{reference:path}", status_code=204)
    async def delete(reference: str, team_id: str | None = None) -> Response:
        await templates.delete(reference, team_id=team_id)
        return Response(status_code=204)

    @router.get("/builds/{build_id}")
    async def build(
        build_id: str, log_offset: Annotated[int, Query(ge=0)] = 0, team_id: str | None = None
    ) -> BuildView:
        report = await templates.report(build_id, log_offset=log_offset, team_id=team_id)
        entries = (
            BuildLogEntry(timestamp=one.at, level=one.level, message=one.message, step=one.step) for one in report.log
        )
        return build_view(report.build, tuple(entries))

    return router
