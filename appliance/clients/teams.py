"""CubeMaster's routes about teams; `MasterClient.teams` is one of these."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from appliance.common.http import InternalClient
from appliance.contracts.teams import (
    NewTeam,
    Tally,
    TeamLimits,
    TeamMetric,
    TeamMetricMax,
    TeamMetricName,
    TeamView,
)

_TEAMS = TypeAdapter(list[TeamView])
_METRICS = TypeAdapter(list[TeamMetric])
_COUNTS = TypeAdapter(dict[str, int])
_ORDER_DEADLINE = timedelta(minutes=2)
"""For what concerns everything a team has, on every node."""


class TeamsClient:
    def __init__(self, http: InternalClient, *, deadline: timedelta) -> None:
        self._http = http
        self._deadline = deadline

    async def create(self, slug: str) -> TeamView:
        return TeamView.model_validate(await self._call("POST", "/v1/teams", NewTeam(slug=slug)))

    async def all(self) -> list[TeamView]:
        return _TEAMS.validate_python(await self._call("GET", "/v1/teams"))

    async def get(self, reference: str) -> TeamView:
        """Return a team by id or slug."""
        return TeamView.model_validate(await self._call("GET", f"/v1/teams/{reference}"))

    async def set_limits(self, reference: str, limits: TeamLimits) -> TeamView:
        """Replace the team's own limits; what is None is as the defaults are."""
        return TeamView.model_validate(await self._call("PUT", f"/v1/teams/{reference}/limits", limits))

    async def metrics(self, team_id: str, *, start: datetime | None, end: datetime | None) -> list[TeamMetric]:
        return _METRICS.validate_python(
            await self._call("GET", f"/v1/teams/{team_id}/metrics", params=_span(start, end))
        )

    async def max_metric(
        self, team_id: str, *, metric: TeamMetricName, start: datetime | None, end: datetime | None
    ) -> TeamMetricMax:
        params = {"metric": metric, **_span(start, end)}
        return TeamMetricMax.model_validate(await self._call("GET", f"/v1/teams/{team_id}/metrics/max", params=params))

    async def kill_sandboxes(self, team_id: str) -> Tally:
        return await self._order(f"/v1/teams/{team_id}/sandboxes/kill")

    async def cancel_builds(self, team_id: str) -> Tally:
        return await self._order(f"/v1/teams/{team_id}/builds/cancel")

    async def running_counts(self) -> dict[str, int]:
        return _COUNTS.validate_python(await self._call("GET", "/v1/running-counts"))

    async def _order(self, path: str) -> Tally:
        return Tally.model_validate(await self._http.request("POST", path, deadline=_ORDER_DEADLINE))

    async def _call(
        self, method: str, path: str, body: NewTeam | TeamLimits | None = None, params: dict[str, str] | None = None
    ) -> Any:
        json = body.model_dump(mode="json", exclude_none=True) if body else None
        return await self._http.request(method, path, deadline=self._deadline, json=json, params=params)


def _span(start: datetime | None, end: datetime | None) -> dict[str, str]:
    return {name: at.isoformat() for name, at in (("start", start), ("end", end)) if at is not None}
