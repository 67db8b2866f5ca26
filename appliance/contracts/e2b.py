"""Public REST shapes, as released E2B clients send and expect them. Field names are the wire's.

Requests ignore unknown fields, since SDKs are newer than servers; no field that is known here is dropped. Answers carry
every key a generated client pops.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from appliance.contracts.e2b_network import Iam, Network, NetworkShown

CLIENT_ID = "6532622b"
"""`clientID` names E2B's node; deprecated, but clients read it unconditionally, and old ones put it into host names."""


LogLevel = Literal["debug", "info", "warn", "error"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class AutoResume(_Request):
    enabled: bool = False


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
    iam: Iam | None = None
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
