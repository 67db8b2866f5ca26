from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from appliance.contracts.templates import BuildView, NewTemplate, TemplateChange, TemplatePage, TemplateView
from appliance.cubemaster.mapping import build_spec, build_view, page_cursor, page_position, template_view
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

    @router.patch("/templates/{reference:path}")
    async def change(reference: str, new: TemplateChange) -> TemplateView:
        return template_view(await templates.publish(reference, public=new.public, team_id=new.team_id))

    @router.delete("/templates/{reference:path}", status_code=204)
    async def delete(reference: str, team_id: str | None = None) -> Response:
        await templates.delete(reference, team_id=team_id)
        return Response(status_code=204)

    # Not below /templates, where any path is a reference.
    @router.get("/template-pages")
    async def page(
        team_id: str, limit: Annotated[int, Query(ge=1, le=100)] = 100, cursor: str | None = None
    ) -> TemplatePage:
        found, more = await templates.page(team_id=team_id, after=page_position(cursor), limit=limit)
        return TemplatePage(templates=tuple(template_view(one) for one in found), next_cursor=page_cursor(more))

    @router.get("/default-templates")
    async def defaults() -> list[TemplateView]:
        return [template_view(one) for one in await templates.defaults()]

    return router
