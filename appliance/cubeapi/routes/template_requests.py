"""Builds are asked for here, in every generation of routes that released clients call."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_templates as e2b
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi import build_mapping
from appliance.cubeapi.auth import Authenticator
from appliance.domain.errors import InvalidRequest

_NO_DOCKER_PUSH = (
    "building a Dockerfile by `docker push` is not supported: use the template builder of the SDK, "
    "`Template().from_dockerfile(...)` and `Template.build`, or `e2b template create` of a CLI that has it"
)


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter()
    key_of = Depends(authenticate)

    @routes.post("/v3/templates", status_code=202)
    async def request_v3(body: e2b.NewTemplateV3, key: Annotated[ResolvedKey, key_of]) -> e2b.RequestedTemplate:
        build_mapping.refuse_other_team(body.teamID, key)
        requested = await master.request_build(build_mapping.requested_v3(body, team_id=key.team_id))
        return build_mapping.requested_template(requested)

    @routes.post("/v2/templates", status_code=202)
    async def request_v2(body: e2b.NewTemplateV2, key: Annotated[ResolvedKey, key_of]) -> e2b.Template:
        build_mapping.refuse_other_team(body.teamID, key)
        requested = await master.request_build(build_mapping.requested_v2(body, team_id=key.team_id))
        return build_mapping.legacy_template(requested)

    # What the first generation calls, with an access token in place of a key: whoever it is learns what to do.
    @routes.post("/templates")
    @routes.post("/templates/{template_id}")
    @routes.post("/templates/{template_id}/builds/{path_id}")
    async def request_v1(template_id: str = "", path_id: str = "") -> None:
        raise InvalidRequest(_NO_DOCKER_PUSH)

    return routes
