"""Teams, their limits, and what they have now, counted from the rows themselves."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    bindparam,
    case,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from appliance.cubemaster.persistence.tables import builds, sandboxes, teams, templates, volumes
from appliance.domain.errors import Conflict
from appliance.domain.ids import BuildId, SandboxId, TeamId
from appliance.domain.sandbox import CONCURRENT, LIVE, SandboxState
from appliance.domain.team import Limits, Team, Usage
from appliance.domain.template import BuildStatus
from appliance.domain.volume import VolumeState

_LIMIT_COLUMNS = {
    "sandboxes": teams.c.max_sandboxes,
    "vcpus": teams.c.max_vcpus,
    "memory_mib": teams.c.max_memory_mib,
    "disk_mib": teams.c.max_disk_mib,
    "builds": teams.c.max_builds,
    "volumes": teams.c.max_volumes,
}
_UNFINISHED = (BuildStatus.WAITING, BuildStatus.BUILDING)


class TeamRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, slug: str, *, now: datetime) -> Team:
        """Make a team, or raise Conflict where there is one of that slug."""
        team = Team(TeamId(str(uuid.uuid4())), slug, now, Limits())
        try:
            self._connection.execute(insert(teams), {"team_id": team.team_id, "slug": slug, "created_at": now})
        except IntegrityError as error:
            raise Conflict(f"there is a team '{slug}' already") from error
        return team

    def find(self, reference: str) -> Team | None:
        """Return a team by its id or its slug."""
        row = self._connection.execute(
            # An id of one team may be the slug of another: the id wins.
            select(teams)
            .where((teams.c.team_id == reference) | (teams.c.slug == reference))
            .order_by((teams.c.team_id == reference).desc())
            .limit(1)
        ).one_or_none()
        return _team(row) if row else None

    def all(self) -> list[Team]:
        return [_team(row) for row in self._connection.execute(select(teams).order_by(teams.c.slug))]

    def set_limits(self, team_id: TeamId, limits: Limits) -> None:
        values = {column: getattr(limits, name) for name, column in _LIMIT_COLUMNS.items()}
        self._connection.execute(update(teams).where(teams.c.team_id == team_id).values(values))

    def standing_of_sandboxes(self, team_id: TeamId, defaults: Limits) -> tuple[Limits, Usage]:
        """Return a team's own limits, and what its sandboxes take of all that is limited by them or the defaults."""
        return self._standing(_STANDING_OF_SANDBOXES, _SANDBOX_LIMITS, team_id, defaults)

    def standing_of_builds(self, team_id: TeamId, defaults: Limits) -> tuple[Limits, Usage]:
        """Return the same of its builds."""
        return self._standing(_STANDING_OF_BUILDS, _BUILD_LIMITS, team_id, defaults)

    def standing_of_volumes(self, team_id: TeamId, defaults: Limits) -> tuple[Limits, Usage]:
        """Return the same of its volumes."""
        return self._standing(_STANDING_OF_VOLUMES, _VOLUME_LIMITS, team_id, defaults)

    def usage(self, team_id: TeamId) -> Usage:
        """Return all that a team has."""
        return _standing(self._connection.execute(_USAGE, {"team": team_id}).one())[1]

    def _standing(
        self, statement: Select[Any], names: Collection[str], team_id: TeamId, defaults: Limits
    ) -> tuple[Limits, Usage]:
        parameters = {"team": team_id, **{f"default_{name}": getattr(defaults, name) for name in names}}
        return _standing(self._connection.execute(statement, parameters).one())

    def live_sandboxes(self, team_id: TeamId) -> list[SandboxId]:
        """Return a team's sandboxes that nobody has killed yet."""
        states = sorted(LIVE - {SandboxState.KILLING})
        found = self._connection.scalars(
            select(sandboxes.c.sandbox_id).where(sandboxes.c.team_id == team_id, sandboxes.c.state.in_(states))
        )
        return [SandboxId(one) for one in found]

    def unfinished_builds(self, team_id: TeamId) -> list[BuildId]:
        found = self._connection.scalars(
            select(builds.c.build_id)
            .join(templates, templates.c.template_id == builds.c.template_id)
            .where(templates.c.team_id == team_id, builds.c.status.in_(_UNFINISHED))
        )
        return [BuildId(one) for one in found]

    def running_counts(self) -> Mapping[TeamId, int]:
        """Return how many sandboxes of each team run; teams without any are not there."""
        rows = self._connection.execute(
            select(sandboxes.c.team_id, func.count())
            .where(sandboxes.c.state.in_(CONCURRENT))
            .group_by(sandboxes.c.team_id)
        )
        return {TeamId(team_id): count for team_id, count in rows}


def _of_sandboxes(what: ColumnElement[Any], states: frozenset[Any]) -> ScalarSelect[Any]:
    return (
        select(func.coalesce(what, 0))
        .where(sandboxes.c.team_id == bindparam("team"), sandboxes.c.state.in_(sorted(states)))
        .scalar_subquery()
    )


def _of_volumes(what: ColumnElement[Any]) -> ScalarSelect[Any]:
    return (
        select(func.coalesce(what, 0))
        # How long one is on its way out is not the team's doing.
        .where(volumes.c.team_id == bindparam("team"), volumes.c.state != VolumeState.DELETING)
        .scalar_subquery()
    )


_USED: Mapping[str, ColumnElement[Any]] = {
    "sandboxes": _of_sandboxes(func.count(), CONCURRENT),
    "vcpus": _of_sandboxes(func.sum(sandboxes.c.vcpus), CONCURRENT),
    "memory_mib": _of_sandboxes(func.sum(sandboxes.c.memory_mib), CONCURRENT),
    "disk_mib": _of_sandboxes(func.sum(sandboxes.c.disk_size_mib), LIVE) + _of_volumes(func.sum(volumes.c.size_mib)),
    "builds": select(func.count())
    .select_from(builds.join(templates, templates.c.template_id == builds.c.template_id))
    # Drafts cost nothing, and clients that fail leave them behind. A snapshot under way is not a build.
    .where(
        templates.c.team_id == bindparam("team"),
        builds.c.status == BuildStatus.BUILDING,
        builds.c.source_sandbox_id.is_(None),
    )
    .scalar_subquery(),
    "volumes": _of_volumes(func.count()),
}
_SANDBOX_LIMITS = ("sandboxes", "vcpus", "memory_mib", "disk_mib")
_BUILD_LIMITS = ("builds",)
_VOLUME_LIMITS = ("volumes", "disk_mib")


def _counting(names: Collection[str]) -> Select[Any]:
    """Return the query of limits, and of what is used of those that are limited. 0 is no limit."""
    return select(
        *(column.label(f"own_{name}") for name, column in _LIMIT_COLUMNS.items()),
        *(
            case(
                (func.coalesce(_LIMIT_COLUMNS[name], bindparam(f"default_{name}"), 0) > 0, _USED[name]), else_=null()
            ).label(f"used_{name}")
            for name in names
        ),
    ).where(teams.c.team_id == bindparam("team"))


# On the path of every create, under the team's lock: built once.
_STANDING_OF_SANDBOXES = _counting(_SANDBOX_LIMITS)
_STANDING_OF_BUILDS = _counting(_BUILD_LIMITS)
_STANDING_OF_VOLUMES = _counting(_VOLUME_LIMITS)
_USAGE = select(
    *(column.label(f"own_{name}") for name, column in _LIMIT_COLUMNS.items()),
    *(used.label(f"used_{name}") for name, used in _USED.items()),
).where(teams.c.team_id == bindparam("team"))


def _team(row: Row[Any]) -> Team:
    limits = Limits(**{name: getattr(row, column.name) for name, column in _LIMIT_COLUMNS.items()})
    return Team(TeamId(row.team_id), row.slug, row.created_at, limits)


def _standing(row: Row[Any]) -> tuple[Limits, Usage]:
    limits = Limits(**{name: getattr(row, f"own_{name}") for name in _LIMIT_COLUMNS})
    used = {name: getattr(row, f"used_{name}", None) for name in _LIMIT_COLUMNS}
    # MariaDB sums integers into DECIMAL.
    return limits, Usage(**{name: None if value is None else int(value) for name, value in used.items()})
