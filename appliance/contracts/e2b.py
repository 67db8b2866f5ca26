"""Public REST shapes, as released E2B clients send and expect them. Field names are the wire's.

Requests ignore unknown fields, since SDKs are newer than servers; fields that are known but not served yet are refused
by name in `cubeapi/mapping.py`, never dropped. Answers carry every key a generated client pops.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

CLIENT_ID = "6532622b"
"""`clientID` names E2B's node; deprecated, but clients read it unconditionally, and old ones put it into host names."""


BuildStatus = Literal["building", "waiting", "ready", "error"]
LogLevel = Literal["debug", "info", "warn", "error"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class AutoResume(_Request):
    enabled: bool = False


class Egress(_Request):
    """What a sandbox may reach."""

    allowOut: tuple[str, ...] | None = None
    denyOut: tuple[str, ...] | None = None
    dnsServers: tuple[str, ...] | None = None
    egressProxy: dict[str, Any] | None = Field(default=None, repr=False)
    rules: dict[str, Any] | None = Field(default=None, repr=False)


class Network(Egress):
    allowPublicTraffic: bool = True
    maskRequestHost: str | None = None
    httpsPorts: tuple[int, ...] | None = None


class NetworkUpdate(Egress):
    """`PUT /sandboxes/{id}/network`: replaces all of these, what is left out included."""

    allow_internet_access: bool | None = None


class VolumeMount(_Request):
    name: str
    path: str


class NewSandbox(_Request):
    """`POST /sandboxes` and `POST /v2/sandboxes`; the two differ in the default of `timeout` and in `secure`."""

    templateID: str = Field(min_length=1, max_length=512)
    timeout: int | None = None
    autoPause: bool = False
    autoPauseMemory: bool | None = None
    autoResume: AutoResume | None = None
    secure: bool | None = None
    allow_internet_access: bool | None = None
    network: Network | None = None
    metadata: dict[str, str] | None = None
    envVars: dict[str, str] | None = Field(default=None, repr=False)
    mcp: dict[str, Any] | None = Field(default=None, repr=False)
    """What the client starts a gateway with, by a command in the sandbox: nothing is left to do for us."""
    iam: dict[str, Any] | None = None
    volumeMounts: tuple[VolumeMount, ...] | None = None


class Timeout(_Request):
    timeout: int


class Pause(_Request):
    memory: bool = True
    requireHealthyGuest: bool = False


class Resume(_Request):
    timeout: int = 15
    autoPause: bool | None = None
    memory: bool | None = None


class NewSnapshot(_Request):
    name: str | None = Field(default=None, min_length=1, max_length=256)
    memory: bool = True


class NewRollback(_Request):
    """Of this appliance: E2B has no such call. `snapshotID` is the id, or the name, of a snapshot of the sandbox."""

    snapshotID: str = Field(min_length=1, max_length=256)


class NewFork(_Request):
    timeout: int = 15
    count: int = 1


class ConnectV1(_Request):
    timeout: int
    memory: bool | None = None


class ConnectV2(_Request):
    timeout: int = 300
    memory: bool | None = None


class Refresh(_Request):
    duration: int = Field(default=15, ge=0, le=3600)


class Sandbox(_Answer):
    templateID: str
    sandboxID: str
    clientID: str = CLIENT_ID
    envdVersion: str
    alias: str | None = None
    envdAccessToken: str | None = Field(default=None, repr=False)
    trafficAccessToken: str | None = Field(default=None, repr=False)
    domain: str | None = None


class ListedSandbox(_Answer):
    templateID: str
    sandboxID: str
    clientID: str = CLIENT_ID
    alias: str | None = None
    startedAt: datetime
    endAt: datetime
    cpuCount: int
    memoryMB: int
    diskSizeMB: int
    state: Literal["running", "paused"]
    envdVersion: str
    metadata: dict[str, str] | None = None
    volumeMounts: tuple[VolumeMount, ...] | None = None


class Lifecycle(_Answer):
    autoResume: bool = False
    onTimeout: Literal["kill", "pause"] = "kill"


class NetworkShown(_Answer):
    """A sandbox's rules as they are; no token and no password is among them."""

    allowPublicTraffic: bool = True
    allowOut: tuple[str, ...] | None = None
    denyOut: tuple[str, ...] | None = None
    maskRequestHost: str | None = None


class SandboxDetail(ListedSandbox):
    envdAccessToken: str | None = Field(default=None, repr=False)
    allowInternetAccess: bool | None = None
    domain: str | None = None
    network: NetworkShown | None = None
    lifecycle: Lifecycle = Lifecycle()
    pauseMode: Literal["full", "filesystem"] | None = None


class Snapshot(_Answer):
    snapshotID: str
    names: tuple[str, ...]


class ForkError(_Answer):
    code: int
    message: str


class Forked(_Answer):
    """One of the two."""

    sandbox: Sandbox | None = None
    error: ForkError | None = None


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


class SandboxMetric(_Answer):
    """Sizes are bytes."""

    timestamp: datetime
    timestampUnix: int
    cpuCount: int
    cpuUsedPct: float
    memUsed: int
    memTotal: int
    memCache: int
    diskUsed: int
    diskTotal: int


class SandboxLog(_Answer):
    timestamp: datetime
    line: str
    """JSON with `level`, `logger`, `message` and `timestamp`, which the CLI parses."""


class SandboxLogEntry(_Answer):
    timestamp: datetime
    message: str
    level: LogLevel
    fields: dict[str, str]


class SandboxLogs(_Answer):
    logs: tuple[SandboxLog, ...]
    logEntries: tuple[SandboxLogEntry, ...]


class SandboxLogsV2(_Answer):
    logs: tuple[SandboxLogEntry, ...]


class SandboxesMetrics(_Answer):
    sandboxes: dict[str, SandboxMetric]


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
    awsSecretAccessKey: str = Field(repr=False)
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
