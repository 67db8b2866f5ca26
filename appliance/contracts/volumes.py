"""Volumes of teams between CubeMaster and CubeAPI: part of the interface that `contracts/master.py` lists.

POST   /v1/volumes                         201 VolumeAndToken     NewVolume; Conflict where the name is taken
GET    /v1/volumes?team_id=                200 [VolumeView]       without a team: every team's
GET    /v1/volumes/{volume_id}?team_id=    200 VolumeAndToken     VolumeNotFound
DELETE /v1/volumes/{volume_id}?team_id=    204                    VolumeNotFound, VolumeInUse
*      /v1/volumes/{volume_id}/content/{kind}?path=...            with `Authorization: Bearer <its token>`, else
                                                                  Unauthenticated: contracts/node_volumes.py
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class NewVolume(_Wire):
    team_id: str
    name: str


class VolumeView(_Wire):
    volume_id: str
    team_id: str
    name: str
    node_id: str
    size_mib: int
    created_at: datetime
    sandbox_id: str | None = None
    """Which sandbox has it."""


class VolumeAndToken(VolumeView):
    token: str = Field(repr=False)
    """Opens the content of this volume alone."""


class VolumeMount(_Wire):
    """A volume as a sandbox asks for it, and as its view shows it."""

    name: str
    path: str
