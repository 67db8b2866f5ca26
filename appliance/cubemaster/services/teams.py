"""Teams: make one, look at one, limit one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.quota import Quota
from appliance.domain.errors import TeamNotFound
from appliance.domain.ids import TeamId
from appliance.domain.team import Limits, Team, Usage, parse_slug


@dataclass(frozen=True, slots=True)
class TeamStanding:
    """A team, the limits that hold for it, and what it has."""

    team: Team
    limits: Limits
    usage: Usage


class TeamService:
    def __init__(self, database: Database, quota: Quota, clock: Clock) -> None:
        self._database = database
        self._quota = quota
        self._clock = clock

    async def create(self, slug: str) -> TeamStanding:
        parse_slug(slug)
        now = self._clock.now()
        return await self._database.transact(lambda uow: self._standing(uow, uow.teams.add(slug, now=now)))

    async def all(self) -> list[TeamStanding]:
        return await self._database.transact(lambda uow: [self._standing(uow, team) for team in uow.teams.all()])

    async def get(self, reference: str) -> TeamStanding:
        return await self._database.transact(lambda uow: self._standing(uow, found_team(uow, reference)))

    async def set_limits(self, reference: str, limits: Limits) -> TeamStanding:
        """Replace a team's own limits. What it has beyond them stays; it gets no more until it has less."""

        def work(uow: UnitOfWork) -> TeamStanding:
            team = found_team(uow, reference)
            uow.teams.set_limits(team.team_id, limits)
            return self._standing(uow, found_team(uow, team.team_id))

        return await self._database.transact(work)

    async def running_counts(self) -> Mapping[TeamId, int]:
        return await self._database.transact(lambda uow: uow.teams.running_counts())

    def _standing(self, uow: UnitOfWork, team: Team) -> TeamStanding:
        return TeamStanding(team, team.limits.or_default(self._quota.defaults), uow.teams.usage(team.team_id))


def found_team(uow: UnitOfWork, reference: str) -> Team:
    """Return a team by id or slug, or raise TeamNotFound."""
    team = uow.teams.find(reference)
    if team is None:
        raise TeamNotFound(reference)
    return team
