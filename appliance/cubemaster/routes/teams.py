from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from fastapi import APIRouter

from appliance.contracts.teams import (
    NewTeam,
    Tally,
    TeamLimits,
    TeamMetric,
    TeamMetricMax,
    TeamMetricName,
    TeamUsage,
    TeamView,
)
from appliance.cubemaster.mapping import aware
from appliance.cubemaster.services.team_metrics import TeamMetrics
from appliance.cubemaster.services.team_orders import TeamOrders
from appliance.cubemaster.services.teams import TeamService, TeamStanding
from appliance.domain.team import Limits


def teams_router(teams: TeamService, orders: TeamOrders, metrics: TeamMetrics) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/teams", status_code=201)
    async def create(new: NewTeam) -> TeamView:
        return _view(await teams.create(new.slug))

    @router.get("/teams")
    async def list_all() -> list[TeamView]:
        return [_view(one) for one in await teams.all()]

    @router.get("/teams/{reference}")
    async def get(reference: str) -> TeamView:
        return _view(await teams.get(reference))

    @router.put("/teams/{reference}/limits")
    async def set_limits(reference: str, limits: TeamLimits) -> TeamView:
        return _view(await teams.set_limits(reference, Limits(**limits.model_dump())))

    @router.get("/teams/{team_id}/metrics")
    async def between(team_id: str, start: datetime | None = None, end: datetime | None = None) -> list[TeamMetric]:
        return await metrics.between(team_id, start=_aware(start), end=_aware(end))

    @router.get("/teams/{team_id}/metrics/max")
    async def highest(
        team_id: str, metric: TeamMetricName, start: datetime | None = None, end: datetime | None = None
    ) -> TeamMetricMax:
        return await metrics.highest(team_id, metric=metric, start=_aware(start), end=_aware(end))

    @router.post("/teams/{reference}/sandboxes/kill")
    async def kill_sandboxes(reference: str) -> Tally:
        return Tally(**asdict(await orders.kill_sandboxes(reference)))

    @router.post("/teams/{reference}/builds/cancel")
    async def cancel_builds(reference: str) -> Tally:
        return Tally(**asdict(await orders.cancel_builds(reference)))

    @router.get("/running-counts")
    async def running_counts() -> dict[str, int]:
        return {str(team_id): count for team_id, count in (await teams.running_counts()).items()}

    return router


def _view(standing: TeamStanding) -> TeamView:
    team = standing.team
    return TeamView(
        team_id=team.team_id,
        slug=team.slug,
        created_at=team.created_at,
        own_limits=TeamLimits(**asdict(team.limits)),
        limits=TeamLimits(**asdict(standing.limits)),
        usage=TeamUsage(**asdict(standing.usage)),
    )


def _aware(at: datetime | None) -> datetime | None:
    return None if at is None else aware(at)
