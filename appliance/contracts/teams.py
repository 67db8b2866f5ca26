"""Teams between CubeMaster and its callers: part of the interface that `contracts/master.py` lists."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TeamMetricName = Literal["concurrent_sandboxes", "sandbox_start_rate"]
_MAX_LIMIT = 2**31 - 1


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class NewTeam(_Wire):
    slug: str
    """Also begins the names of its templates: `team/alias`."""


class TeamLimits(_Wire):
    """The most a team may have at one time. Its own: None is the default, 0 no limit. Those that hold: None is none."""

    sandboxes: int | None = Field(default=None, ge=0, le=_MAX_LIMIT)
    vcpus: int | None = Field(default=None, ge=0, le=_MAX_LIMIT)
    memory_mib: int | None = Field(default=None, ge=0, le=_MAX_LIMIT)
    disk_mib: int | None = Field(default=None, ge=0, le=_MAX_LIMIT)
    builds: int | None = Field(default=None, ge=0, le=_MAX_LIMIT)
    volumes: int | None = Field(default=None, ge=0, le=_MAX_LIMIT)


class TeamUsage(_Wire):
    """What a team has now."""

    sandboxes: int
    vcpus: int
    memory_mib: int
    disk_mib: int
    builds: int
    volumes: int


class TeamView(_Wire):
    team_id: str
    slug: str
    created_at: datetime
    own_limits: TeamLimits
    limits: TeamLimits
    """Those that hold."""
    usage: TeamUsage


class TeamMetric(_Wire):
    """One stretch of time."""

    at: datetime
    """When it begins."""
    concurrent_sandboxes: int
    """The most that ran at one time."""
    start_rate: float
    """Sandboxes started or resumed per second."""


class TeamMetricMax(_Wire):
    at: datetime
    value: float


class Tally(_Wire):
    """What became of an order that concerns many."""

    done: int
    failed: int


class NodeDraining(_Wire):
    draining: bool
    """True: the node gets no new sandboxes and builds, and keeps those it has."""
