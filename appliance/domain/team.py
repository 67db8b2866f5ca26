"""Teams, and how much each may have at one time."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime

from appliance.domain.errors import InvalidRequest
from appliance.domain.ids import TeamId

_SLUG = re.compile(r"[a-z0-9_-]{1,64}")


def parse_slug(text: str) -> str:
    """Return the slug of a team, which also begins the names of its templates, or raise InvalidRequest."""
    if not _SLUG.fullmatch(text):
        raise InvalidRequest(f"'{text[:80]}' cannot name a team: use 1 to 64 of a-z, 0-9, _ and -")
    return text


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a team may have at one time. Of a team's own: None is the default. Of the result: None is no limit."""

    sandboxes: int | None = None
    """Those that run or start."""
    vcpus: int | None = None
    """Of those."""
    memory_mib: int | None = None
    """Of those."""
    disk_mib: int | None = None
    """Of all sandboxes, paused ones included, and of volumes."""
    builds: int | None = None
    """Template builds that were started and have not ended."""
    volumes: int | None = None

    def or_default(self, defaults: Limits) -> Limits:
        """Return what holds: the team's own, else the default. 0 stands for no limit."""
        values = {
            one.name: getattr(defaults, one.name) if (own := getattr(self, one.name)) is None else own or None
            for one in fields(self)
        }
        return Limits(**values)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a team has now, in the same terms. None where nobody needed to know."""

    sandboxes: int | None
    vcpus: int | None
    memory_mib: int | None
    disk_mib: int | None
    builds: int | None
    volumes: int | None


@dataclass(frozen=True, slots=True)
class Team:
    team_id: TeamId
    slug: str
    created_at: datetime
    limits: Limits
    """Its own; what is None is as the settings have it."""


_WORDS = {
    "sandboxes": "{limit} concurrent sandboxes",
    "vcpus": "{limit} vCPUs in running sandboxes",
    "memory_mib": "{limit} MiB of memory in running sandboxes",
    "disk_mib": "{limit} MiB of disk in sandboxes, paused ones included, and volumes",
    "builds": "{limit} template builds at one time",
    "volumes": "{limit} volumes",
}


def exceeded(limits: Limits, usage: Usage) -> str | None:
    """Return which limit is exceeded, in words, or None."""
    for name, words in _WORDS.items():
        limit, used = getattr(limits, name), getattr(usage, name)
        if limit is not None and used is not None and used > limit:
            return words.format(limit=limit)
    return None
