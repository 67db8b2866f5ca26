"""The caller's team, and what its sandboxes did over time."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_access as e2b
from appliance.contracts.master import ResolvedKey
from appliance.contracts.teams import TeamMetricName
from appliance.cubeapi import mapping_access as mapping
from appliance.cubeapi.auth import OPERATOR, Authenticator, presented_key
from appliance.cubeapi.mapping import instant
from appliance.domain.errors import Forbidden

_UnixSeconds = Annotated[int | None, Query(ge=0, le=253402300799)]


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter(prefix="/teams")
    key_of = Depends(authenticate)

    @routes.get("")
    async def list_own(request: Request, key: Annotated[ResolvedKey, key_of]) -> list[e2b.Team]:
        # The CLI keeps this key for later calls. It gets back the one it came with, and no other.
        own = None if key.key_id == OPERATOR else presented_key(request.headers)
        return [e2b.Team(teamID=key.team_id, name=key.team_slug, apiKey=own or "", isDefault=True)]

    @routes.get("/{team_id}/metrics")
    async def metrics(
        team_id: str, key: Annotated[ResolvedKey, key_of], start: _UnixSeconds = None, end: _UnixSeconds = None
    ) -> list[e2b.TeamMetric]:
        _refuse_other_team(team_id, key)
        found = await master.teams.metrics(key.team_id, start=_seconds(start), end=_seconds(end))
        return [mapping.team_metric(one) for one in found]

    @routes.get("/{team_id}/metrics/max")
    async def highest(
        team_id: str,
        key: Annotated[ResolvedKey, key_of],
        metric: TeamMetricName,
        start: _UnixSeconds = None,
        end: _UnixSeconds = None,
    ) -> e2b.MaxTeamMetric:
        _refuse_other_team(team_id, key)
        found = await master.teams.max_metric(key.team_id, metric=metric, start=_seconds(start), end=_seconds(end))
        return mapping.max_team_metric(found)

    return routes


def _refuse_other_team(team_id: str, key: ResolvedKey) -> None:
    if team_id != key.team_id:
        raise Forbidden(f"You ({key.team_id}) are not authorized to access this team's ({team_id}) metrics")


def _seconds(unix: int | None) -> datetime | None:
    return instant(None if unix is None else unix * 1000)
