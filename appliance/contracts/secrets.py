"""Secrets of teams between CubeMaster and CubeAPI: part of the interface that `contracts/master.py` lists.

A value goes in and never comes out here: it is for the rules of egress, which resolve it where it is used.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class NewSecret(_Wire):
    team_id: str
    name: str
    value: str = Field(repr=False)
    metadata: dict[str, str] = Field(default_factory=dict)


class SecretUpdate(_Wire):
    team_id: str
    value: str = Field(repr=False)
    metadata: dict[str, str] | None = None
    """None: as it is."""


class SecretView(_Wire):
    secret_id: str
    name: str
    current_version: int
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime


class SecretPage(_Wire):
    secrets: tuple[SecretView, ...]
    next_cursor: str | None = None
