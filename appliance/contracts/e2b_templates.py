"""Public REST shapes of templates and their builds: part of what `contracts/e2b.py` is about."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from appliance.contracts.e2b import LogLevel

BuildStatus = Literal["building", "waiting", "ready", "error"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Template(_Answer):
    templateID: str
    buildID: str
    cpuCount: int
    memoryMB: int
    diskSizeMB: int
    public: bool
    aliases: tuple[str, ...]
    names: tuple[str, ...]
    createdAt: datetime
    updatedAt: datetime
    createdBy: None = None
    lastSpawnedAt: datetime | None = None
    spawnCount: int
    buildCount: int
    envdVersion: str
    buildStatus: BuildStatus


class TemplateBuild(_Answer):
    buildID: str
    status: BuildStatus
    createdAt: datetime
    updatedAt: datetime
    finishedAt: datetime | None = None
    cpuCount: int
    memoryMB: int
    diskSizeMB: int | None = None
    envdVersion: str | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Generated clients tell absent from null, and parse null as a time. The template around it needs its nulls.
        return {key: value for key, value in serialize(self).items() if value is not None}


class TemplateWithBuilds(Template):
    builds: tuple[TemplateBuild, ...]


class TemplateChange(_Request):
    public: bool | None = None


class TemplateNames(_Answer):
    names: tuple[str, ...]


class NewTags(_Request):
    target: str = Field(min_length=1, max_length=512)
    tags: tuple[str, ...] = Field(max_length=100)


class OldTags(_Request):
    name: str = Field(min_length=1, max_length=512)
    tags: tuple[str, ...] = Field(max_length=100)


class AssignedTags(_Answer):
    tags: tuple[str, ...]
    buildID: str


class TemplateTag(_Answer):
    tag: str
    buildID: str
    createdAt: datetime


class NewTemplateV3(_Request):
    """`POST /v3/templates`. `alias` is an older word for `name`."""

    name: str | None = Field(default=None, max_length=512)
    alias: str | None = Field(default=None, max_length=512)
    tags: tuple[str, ...] | None = Field(default=None, max_length=100)
    teamID: str | None = None
    cpuCount: int | None = None
    memoryMB: int | None = None
    minFreeDiskMb: int | None = None


class NewTemplateV2(_Request):
    alias: str = Field(max_length=512)
    teamID: str | None = None
    cpuCount: int | None = None
    memoryMB: int | None = None


class RequestedTemplate(_Answer):
    templateID: str
    buildID: str
    public: bool
    names: tuple[str, ...]
    tags: tuple[str, ...]
    aliases: tuple[str, ...]


class TemplateStep(_Request):
    type: str
    args: tuple[str, ...] | None = Field(default=None, repr=False)
    filesHash: str | None = None
    force: bool | None = None


class GeneralRegistry(_Request):
    type: Literal["registry"]
    username: str = Field(min_length=1, max_length=255)
    password: str = Field(min_length=1, max_length=16384, repr=False)


class GcpRegistry(_Request):
    type: Literal["gcp"]
    serviceAccountJson: str = Field(min_length=1, max_length=16384, repr=False)


class AwsRegistry(_Request):
    type: Literal["aws"]
    awsAccessKeyId: str = Field(repr=False)
    awsSecretAccessKey: str = Field(min_length=1, max_length=255, repr=False)
    awsRegion: str


Registry = Annotated[GeneralRegistry | GcpRegistry | AwsRegistry, Field(discriminator="type")]


class TemplateBuildStart(_Request):
    """`POST /v2/templates/{templateID}/builds/{buildID}`."""

    fromImage: str | None = Field(default=None, max_length=1024)
    fromTemplate: str | None = Field(default=None, max_length=512)
    fromImageRegistry: Registry | None = None
    force: bool | None = None
    steps: tuple[TemplateStep, ...] | None = None
    startCmd: str | None = Field(default=None, max_length=65535)
    readyCmd: str | None = Field(default=None, max_length=65535)


class FileUpload(_Answer):
    present: bool
    url: str = Field(repr=False)


class BuildLogEntry(_Answer):
    timestamp: datetime
    message: str
    level: LogLevel
    step: str | None = None


class BuildReason(_Answer):
    message: str
    step: str | None = None
    logEntries: tuple[BuildLogEntry, ...] = ()


class TemplateBuildInfo(_Answer):
    templateID: str
    buildID: str
    status: BuildStatus
    logs: tuple[str, ...]
    logEntries: tuple[BuildLogEntry, ...]
    reason: BuildReason | None = None


class TemplateBuildLogs(_Answer):
    logs: tuple[BuildLogEntry, ...]


class TemplateAlias(_Answer):
    templateID: str
    public: bool
