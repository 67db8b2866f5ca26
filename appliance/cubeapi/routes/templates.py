"""Templates of the caller's team, and public ones by name."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi import mapping
from appliance.cubeapi.auth import Authenticator
from appliance.domain.errors import Forbidden, InvalidRequest


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter(prefix="/templates")
    key_of = Depends(authenticate)

    @routes.get("")
    async def list_all(key: Annotated[ResolvedKey, key_of], teamID: str | None = None) -> list[e2b.Template]:  # noqa: N803  # the wire's name
        if teamID is not None and teamID != key.team_id:
            raise InvalidRequest("Team ID param mismatch with the API key")
        return [mapping.template(view) for view in await master.list_templates(team_id=key.team_id)]

    # Names hold slashes, which arrive percent-encoded and are decoded before routing: hence `:path`, and this order.
    @routes.get("/aliases/{alias:path}")
    async def by_alias(alias: str, key: Annotated[ResolvedKey, key_of]) -> e2b.TemplateAlias:
        view = await master.get_template(alias, team_id=key.team_id)
        if view.team_id != key.team_id and not view.public:
            raise Forbidden("You don't have access to this template alias")
        return e2b.TemplateAlias(templateID=view.template_id, public=view.public)

    @routes.delete("/{reference:path}", status_code=204)
    async def delete(reference: str, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.delete_template(reference, team_id=key.team_id)
        return Response(status_code=204)

    return routes
