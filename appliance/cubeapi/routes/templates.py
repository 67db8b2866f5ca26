"""Templates of the caller's team, and public ones by name."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_templates as e2b
from appliance.contracts import templates as internal
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi import build_mapping, mapping
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.routes import template_builds, template_files, template_requests, template_tags
from appliance.cubeapi.settings import CubeApiSettings
from appliance.domain.errors import Forbidden


def router(master: MasterClient, authenticate: Authenticator, settings: CubeApiSettings) -> APIRouter:
    routes = APIRouter()
    key_of = Depends(authenticate)

    # Names hold slashes, which arrive percent-encoded and are decoded before routing: hence `:path`, and this order.
    routes.include_router(template_tags.router(master, authenticate))
    routes.include_router(template_builds.router(master, authenticate))
    routes.include_router(template_files.router(master, authenticate, settings))
    routes.include_router(template_requests.router(master, authenticate))

    @routes.get("/templates")
    async def list_all(key: Annotated[ResolvedKey, key_of], teamID: str | None = None) -> list[e2b.Template]:  # noqa: N803  # the wire's name
        build_mapping.refuse_other_team(teamID, key)
        return [mapping.template(view) for view in await master.list_templates(team_id=key.team_id)]

    @routes.get("/v2/templates")
    async def list_page(
        response: Response,
        key: Annotated[ResolvedKey, key_of],
        teamID: str | None = None,  # noqa: N803  # the wire's name
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        next_token: Annotated[str | None, Query(alias="nextToken")] = None,
    ) -> list[e2b.Template]:
        build_mapping.refuse_other_team(teamID, key)
        page = await master.page_templates(team_id=key.team_id, limit=limit, cursor=next_token)
        if page.next_cursor is not None:
            response.headers["X-Next-Token"] = page.next_cursor
        return [mapping.template(view) for view in page.templates]

    @routes.get("/default-templates", dependencies=[key_of])
    async def defaults() -> list[e2b.Template]:
        return [mapping.template(view) for view in await master.default_templates()]

    @routes.get("/templates/aliases/{alias:path}")
    async def by_alias(alias: str, key: Annotated[ResolvedKey, key_of]) -> e2b.TemplateAlias:
        view = await master.get_template(alias, team_id=key.team_id)
        if view.team_id != key.team_id and not view.public:
            raise Forbidden("You don't have access to this template alias")
        return e2b.TemplateAlias(templateID=view.template_id, public=view.public)

    @routes.get("/templates/{reference:path}")
    async def get(
        reference: str,
        response: Response,
        key: Annotated[ResolvedKey, key_of],
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        next_token: Annotated[str | None, Query(alias="nextToken")] = None,
    ) -> e2b.TemplateWithBuilds:
        builds = await master.page_builds(reference, team_id=key.team_id, limit=limit, cursor=next_token)
        if builds.next_cursor is not None:
            response.headers["X-Next-Token"] = builds.next_cursor
        return mapping.template_with_builds(await master.get_template(reference, team_id=key.team_id), builds.builds)

    async def change(reference: str, body: e2b.TemplateChange, key: ResolvedKey) -> internal.TemplateView:
        return await master.change_template(reference, internal.TemplateChange(team_id=key.team_id, public=body.public))

    @routes.patch("/templates/{reference:path}")
    async def change_v1(reference: str, body: e2b.TemplateChange, key: Annotated[ResolvedKey, key_of]) -> Response:
        await change(reference, body, key)
        return Response(status_code=200)

    @routes.patch("/v2/templates/{reference:path}")
    async def change_v2(
        reference: str, body: e2b.TemplateChange, key: Annotated[ResolvedKey, key_of]
    ) -> e2b.TemplateNames:
        return e2b.TemplateNames(names=mapping.template_names(await change(reference, body, key)))

    @routes.delete("/templates/{reference:path}", status_code=204)
    async def delete(reference: str, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.delete_template(reference, team_id=key.team_id)
        return Response(status_code=204)

    return routes
