"""Tags of the caller's templates: which build a `name:tag` starts."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_templates as e2b
from appliance.contracts import templates as internal
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi.auth import Authenticator


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter(prefix="/templates")
    key_of = Depends(authenticate)

    @routes.post("/tags", status_code=201)
    async def assign(body: e2b.NewTags, key: Annotated[ResolvedKey, key_of]) -> e2b.AssignedTags:
        new = internal.NewTags(team_id=key.team_id, target=body.target, tags=body.tags)
        assigned = await master.assign_tags(new)
        return e2b.AssignedTags(tags=assigned.tags, buildID=assigned.build_id)

    @routes.delete("/tags", status_code=204)
    async def remove(body: e2b.OldTags, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.remove_tags(internal.OldTags(team_id=key.team_id, name=body.name, tags=body.tags))
        return Response(status_code=204)

    @routes.get("/{reference:path}/tags")
    async def list_all(reference: str, key: Annotated[ResolvedKey, key_of]) -> list[e2b.TemplateTag]:
        found = await master.list_tags(reference, team_id=key.team_id)
        return [e2b.TemplateTag(tag=one.tag, buildID=one.build_id, createdAt=one.assigned_at) for one in found]

    return routes
