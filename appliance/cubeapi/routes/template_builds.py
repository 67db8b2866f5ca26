"""A build of the caller's: its start, how it is going, and what it said."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b, e2b_templates
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi import build_mapping, mapping
from appliance.cubeapi.auth import Authenticator
from appliance.domain.errors import BuildNotFound


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter()
    key_of = Depends(authenticate)

    @routes.post("/v2/templates/{template_id:path}/builds/{path_id}", status_code=202)
    async def start(
        template_id: str, path_id: str, body: e2b_templates.TemplateBuildStart, key: Annotated[ResolvedKey, key_of]
    ) -> Response:
        build = build_mapping.build_start(body, template_id=template_id, team_id=key.team_id)
        await master.start_build(mapping.build_id(path_id), build)
        return Response(status_code=202)

    @routes.get("/templates/{template_id:path}/builds/{path_id}/status", response_model_exclude_none=True)
    async def status(  # noqa: PLR0917 - FastAPI passes query parameters by name
        template_id: str,
        path_id: str,
        key: Annotated[ResolvedKey, key_of],
        offset: Annotated[int, Query(alias="logsOffset", ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        level: e2b.LogLevel | None = None,
    ) -> e2b_templates.TemplateBuildInfo:
        build_id = mapping.build_id(path_id)
        view = await master.get_build(
            build_id, log_offset=offset, log_limit=limit, log_level=level, team_id=key.team_id
        )
        if view.template_id != template_id:
            raise BuildNotFound(build_id)
        return mapping.build_info(view)

    @routes.get("/templates/{template_id:path}/builds/{path_id}/logs", response_model_exclude_none=True)
    async def logs(  # noqa: PLR0917 - FastAPI passes query parameters by name
        template_id: str,
        path_id: str,
        key: Annotated[ResolvedKey, key_of],
        cursor: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        direction: Literal["forward", "backward"] = "forward",
        level: e2b.LogLevel | None = None,
        # E2B keeps a build's log in two places and lets a client choose. Here both names mean the one there is.
        source: Literal["temporary", "persistent"] | None = None,
    ) -> e2b_templates.TemplateBuildLogs:
        entries = await master.get_build_logs(
            mapping.build_id(path_id),
            at=mapping.instant(cursor),
            backward=direction == "backward",
            limit=limit,
            level=level,
            template_id=template_id,
            team_id=key.team_id,
        )
        return e2b_templates.TemplateBuildLogs(logs=tuple(mapping.build_log_entry(entry) for entry in entries))

    return routes
