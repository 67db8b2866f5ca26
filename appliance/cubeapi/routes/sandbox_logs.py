"""Logs of sandboxes, running and ended: v1 as the CLI reads them, v2 with a direction, levels and a search."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from appliance.clients.master import MasterClient
from appliance.contracts import e2b
from appliance.contracts.master import ResolvedKey
from appliance.contracts.node import MAX_LOG_ENTRIES
from appliance.cubeapi import mapping
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.log_mapping import log_entry, log_line

_MAX_SEARCH = 256


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter()
    key_of = Depends(authenticate)

    @routes.get("/sandboxes/{path_id}/logs")
    async def v1(
        path_id: str,
        key: Annotated[ResolvedKey, key_of],
        start: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LOG_ENTRIES)] = MAX_LOG_ENTRIES,
    ) -> e2b.SandboxLogs:
        entries = await master.get_sandbox_logs(
            mapping.sandbox_id(path_id), at=mapping.instant(start), limit=limit, team_id=key.team_id
        )
        return e2b.SandboxLogs(
            logs=tuple(log_line(entry) for entry in entries),
            logEntries=tuple(log_entry(entry) for entry in entries),
        )

    @routes.get("/v2/sandboxes/{path_id}/logs")
    async def v2(  # noqa: PLR0917 - FastAPI passes query parameters by name
        path_id: str,
        key: Annotated[ResolvedKey, key_of],
        cursor: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LOG_ENTRIES)] = MAX_LOG_ENTRIES,
        direction: Literal["forward", "backward"] = "forward",
        level: e2b.LogLevel | None = None,
        search: Annotated[str | None, Query(max_length=_MAX_SEARCH)] = None,
    ) -> e2b.SandboxLogsV2:
        entries = await master.get_sandbox_logs(
            mapping.sandbox_id(path_id),
            at=mapping.instant(cursor),
            backward=direction == "backward",
            limit=limit,
            level=level,
            search=search,
            team_id=key.team_id,
        )
        return e2b.SandboxLogsV2(logs=tuple(log_entry(entry) for entry in entries))

    return routes
