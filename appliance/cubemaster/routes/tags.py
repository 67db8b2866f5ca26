from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.templates import AssignedTags, NewTags, OldTags, TagView
from appliance.cubemaster.services.tags import TagService


def tags_router(tags: TagService) -> APIRouter:
    router = APIRouter(prefix="/v1/template-tags")

    @router.post("", status_code=201)
    async def assign(new: NewTags) -> AssignedTags:
        assigned, build_id = await tags.assign(new.target, new.tags, team_id=new.team_id)
        return AssignedTags(tags=assigned, build_id=build_id)

    @router.delete("", status_code=204)
    async def remove(old: OldTags) -> Response:
        await tags.remove(old.name, old.tags, team_id=old.team_id)
        return Response(status_code=204)

    @router.get("")
    async def list_all(template: str, team_id: str | None = None) -> list[TagView]:
        found = await tags.all(template, team_id=team_id)
        return [TagView(tag=one.tag, build_id=one.build_id, assigned_at=one.assigned_at) for one in found]

    return router
