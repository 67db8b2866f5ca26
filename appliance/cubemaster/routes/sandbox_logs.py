from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from appliance.contracts.master import LogLevel
from appliance.contracts.node import MAX_LOG_ENTRIES, SandboxLogEntry
from appliance.cubemaster.mapping import aware
from appliance.cubemaster.services.sandbox_logs import SandboxLogs


def sandbox_logs_router(logs: SandboxLogs) -> APIRouter:
    router = APIRouter(prefix="/v1/sandboxes")

    @router.get("/{sandbox_id}/logs")
    async def read(  # noqa: PLR0917 - FastAPI passes query parameters by name
        sandbox_id: str,
        team_id: str | None = None,
        at: datetime | None = None,
        backward: bool = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LOG_ENTRIES)] = MAX_LOG_ENTRIES,
        level: LogLevel | None = None,
        search: str | None = None,
    ) -> list[SandboxLogEntry]:
        return await logs.read(
            sandbox_id,
            team_id=team_id,
            at=aware(at) if at else None,
            backward=backward,
            limit=limit,
            level=level,
            search=search,
        )

    return router
