"""Public shapes of keys, teams and their metrics. `scopes` and `expiresAt` are ours; clients of E2B ignore them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ScopeName = Literal["sandboxes", "templates", "volumes", "secrets", "keys"]
"""The words of `domain.access.Scope`."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class KeyMask(_Answer):
    prefix: str = "e2b_"
    valueLength: int = 40
    maskedValuePrefix: str
    maskedValueSuffix: str


class NewTeamApiKey(_Request):
    name: str = Field(min_length=1, max_length=255)
    scopes: tuple[ScopeName, ...] | None = Field(default=None, min_length=1, max_length=10)
    """Left out: what the calling key may do."""
    expiresAt: datetime | None = None


class TeamApiKeyChange(_Request):
    name: str = Field(min_length=1, max_length=255)


class TeamApiKey(_Answer):
    id: str
    name: str
    mask: KeyMask
    createdAt: datetime
    createdBy: None = None
    """E2B's users; here a key is the team's."""
    lastUsed: datetime | None = None
    scopes: tuple[str, ...]
    expiresAt: datetime | None = None


class CreatedTeamApiKey(TeamApiKey):
    key: str = Field(repr=False)


class Team(_Answer):
    teamID: str
    name: str
    apiKey: str = Field(repr=False)
    isDefault: bool


class TeamMetric(_Answer):
    timestamp: datetime
    timestampUnix: int
    concurrentSandboxes: int
    sandboxStartRate: float


class MaxTeamMetric(_Answer):
    timestamp: datetime
    timestampUnix: int
    value: float
