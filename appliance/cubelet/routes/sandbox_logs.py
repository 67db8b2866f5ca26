"""What sandboxes of this node said, also those that ended lately."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from appliance.contracts.master import LogLevel
from appliance.contracts.node import MAX_LOG_ENTRIES, SandboxLogEntry
from appliance.cubelet.log_store import LogQuery
from appliance.cubelet.services.log_collector import LogCollector
from appliance.domain.template import levels_from


def router(logs: LogCollector) -> APIRouter:
    routes = APIRouter(prefix="/v1/sandboxes")

    @routes.get("/{sandbox_id}/logs")
    async def read(  # noqa: PLR0917 - FastAPI passes query parameters by name
        sandbox_id: str,
        at: datetime | None = None,
        backward: bool = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LOG_ENTRIES)] = MAX_LOG_ENTRIES,
        level: LogLevel | None = None,
        search: str | None = None,
    ) -> list[SandboxLogEntry]:
        query = LogQuery(at=at, backward=backward, limit=limit, levels=levels_from(level), search=search)
        return await logs.read(sandbox_id, query)

    return routes
