from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from appliance.contracts.master import LogLevel
from appliance.contracts.node import BuildLogEntry
from appliance.contracts.templates import BuildPage, BuildView
from appliance.cubemaster.mapping import aware, build_view, log_entry, page_cursor, page_position
from appliance.cubemaster.services.templates import TemplateService
from appliance.domain.errors import BuildNotFound


def builds_router(templates: TemplateService) -> APIRouter:
    router = APIRouter(prefix="/v1/builds")

    @router.get("")
    async def page(
        template: str,
        team_id: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        cursor: str | None = None,
    ) -> BuildPage:
        found, more = await templates.builds(template, team_id=team_id, after=page_position(cursor), limit=limit)
        return BuildPage(builds=tuple(build_view(one) for one in found), next_cursor=page_cursor(more))

    @router.get("/{build_id}")
    async def get(
        build_id: str,
        log_offset: Annotated[int, Query(ge=0)] = 0,
        log_limit: Annotated[int, Query(ge=1, le=500)] = 500,
        log_level: LogLevel | None = None,
        team_id: str | None = None,
    ) -> BuildView:
        report = await templates.report(
            build_id, log_offset=log_offset, limit=log_limit, lowest_level=log_level, team_id=team_id
        )
        return build_view(
            report.build,
            tuple(log_entry(one) for one in report.log),
            reason_logs=tuple(log_entry(one) for one in report.reason_log),
        )

    @router.get("/{build_id}/logs")
    async def logs(  # noqa: PLR0917 - FastAPI passes query parameters by name
        build_id: str,
        at: datetime | None = None,
        backward: bool = False,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        level: LogLevel | None = None,
        template_id: str | None = None,
        team_id: str | None = None,
    ) -> list[BuildLogEntry]:
        report = await templates.log_around(
            build_id,
            at=aware(at) if at else None,
            backward=backward,
            limit=limit,
            lowest_level=level,
            team_id=team_id,
        )
        if template_id not in (None, report.build.template_id):
            raise BuildNotFound(build_id)
        return [log_entry(one) for one in report.log]

    return router
