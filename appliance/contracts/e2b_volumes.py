"""Public shapes of volumes, and of what is in them: E2B's content API. Field names are the wire's."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_UINT32 = 2**32 - 1


class NewVolume(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")


class Volume(BaseModel):
    model_config = ConfigDict(frozen=True)

    volumeID: str
    name: str


class VolumeAndToken(Volume):
    """Without a `domain`: content is served where the rest of the API is."""

    token: str = Field(repr=False)


class EntryChange(BaseModel):
    """What of an entry's metadata to change; the rest stays."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    uid: int | None = Field(default=None, ge=0, le=MAX_UINT32)
    gid: int | None = Field(default=None, ge=0, le=MAX_UINT32)
    mode: int | None = Field(default=None, ge=0, le=MAX_UINT32)


class EntryStat(BaseModel):
    """A file or directory in a volume, as the guest that has the volume sees it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    type: Literal["unknown", "file", "directory", "symlink"]
    path: str
    size: int
    mode: int
    uid: int
    gid: int
    atime: datetime
    mtime: datetime
    ctime: datetime
    target: str | None = None


class ContentError(BaseModel):
    """The content API's own form of error: its code is a word."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    code: str
    message: str
