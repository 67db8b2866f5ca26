"""CubeMaster's interface, for CubeAPI, the CLI, Cubelets and CubeProxy on the internal network. Never public.

Callers are trusted; CubeAPI passes the team that a key belongs to. `team_id` is a query parameter on GET and DELETE.
A missing `team_id` is the operator: every team's objects. A list of sandboxes takes `state` as a comma-separated list
(default: all that callers may use) and `metadata` as a JSON object of which every pair must match.

    GET    /health                                 204
    POST   /v1/keys/resolve                        200 ResolvedKey        KeyDigest; Unauthenticated
    POST   /v1/keys                                201 CreatedKey         NewKey
    GET    /v1/keys                                200 [KeyView]
    PATCH  /v1/keys/{key_id}                       200 KeyView            KeyChange
    DELETE /v1/keys/{key_id}                       204
    POST   /v1/sandboxes                           201 SandboxView        NewSandbox
    GET    /v1/sandboxes?state=&template=&metadata=&order=&started_after=&limit=&cursor=   200 SandboxPage
    GET    /v1/sandboxes/{sandbox_id}              200 SandboxView        with ?ended=true also one that has ended
    POST   /v1/sandboxes/{sandbox_id}/timeout      200 SandboxView        NewTimeout
    POST   /v1/sandboxes/{sandbox_id}/pause        204                    NewPause; Conflict, GuestUnresponsive
    POST   /v1/sandboxes/{sandbox_id}/resume       201 SandboxView        NewResume; Conflict if running
    POST   /v1/sandboxes/{sandbox_id}/connect      200 Connected          NewConnect: resumed if paused
    POST   /v1/sandboxes/{sandbox_id}/snapshots    201 SnapshotView       NewSnapshot; Conflict if paused
    POST   /v1/sandboxes/{sandbox_id}/fork         201 [Forked]           NewFork; Conflict if paused
    GET    /v1/snapshots?team_id=&sandbox_id=&name=&limit=&cursor=   200 SnapshotPage, newest first
    PUT    /v1/sandboxes/{sandbox_id}/network      204                    NewEgress, in force when it answers
    GET    /v1/sandboxes/{sandbox_id}/metrics?start=&end=   200 [contracts.node.MetricSample]
    GET    /v1/sandboxes/{sandbox_id}/logs?at=&backward=&limit=&level=&search=   200 [contracts.node.SandboxLogEntry],
                                                                          also of one that has ended lately
    GET    /v1/sandbox-metrics?sandbox_ids=a,b     200 {sandbox_id: contracts.node.MetricSample}
    DELETE /v1/sandboxes/{sandbox_id}              204
    POST   /v1/templates                           202 BuildView          NewTemplate; shapes: contracts/templates.py
    GET    /v1/templates                           200 [TemplateView]
    GET    /v1/templates/{reference:path}          200 TemplateView       id, alias or team/alias, with or without :tag
    PATCH  /v1/templates/{reference:path}          200 TemplateView       TemplateChange
    DELETE /v1/templates/{reference:path}          204                    TemplateInUse
    GET    /v1/template-pages?team_id=&limit=&cursor=                 200 TemplatePage, newest first
    GET    /v1/default-templates                   200 [TemplateView]
    POST   /v1/template-tags                       201 AssignedTags       NewTags
    DELETE /v1/template-tags                       204                    OldTags
    GET    /v1/template-tags?template=             200 [TagView]
    GET    /v1/builds?template=&limit=&cursor=     200 BuildPage, newest first
    GET    /v1/builds/{build_id}?log_offset=N&log_limit=&log_level=   200 BuildView
    GET    /v1/builds/{build_id}/logs?template_id=&at=&backward=&limit=&level=   200 [BuildLogEntry]
    POST   /v1/template-builds                     202 RequestedBuild     NewTemplateBuild: a draft, until it is started
    POST   /v1/builds/{build_id}/start             202 BuildView          BuildStart; InvalidRequest if it is none
    GET    /v1/template-uploads?template=&files_hash=&team_id=        200 Upload
    PUT    /v1/template-files/{template_id}/{hash}?expires=&signature=    204    a body with its Content-Length;
                                                   Unauthenticated, Forbidden, LengthRequired, PayloadTooLarge
    GET    /v1/template-files/{template_id}/{hash} 200 the bytes of that PUT, NotFound
    GET    /v1/nodes                               200 [NodeView]
    POST   /v1/nodes/{node_id}/heartbeat           204                    contracts.node.NodeStatus; the first registers
    POST   /v1/nodes/{node_id}/ended               204                    [contracts.node.EndedSandbox]
    GET    /v1/routes/{sandbox_id}                 200 Route              NotFound; also of a paused one
    POST   /v1/routes/{sandbox_id}/wake            200 Route              resumed for traffic; Forbidden, QuotaExceeded,
                                                                          NotFound, SandboxTransitioning
    POST   /v1/teams                               201 TeamView           NewTeam; shapes of teams: contracts/teams.py
    GET    /v1/teams                               200 [TeamView]
    GET    /v1/teams/{reference}                   200 TeamView           id or slug
    PUT    /v1/teams/{reference}/limits            200 TeamView           TeamLimits, which replace its own
    GET    /v1/teams/{team_id}/metrics?start=&end= 200 [TeamMetric], oldest first
    GET    /v1/teams/{team_id}/metrics/max?metric=&start=&end=   200 TeamMetricMax
    POST   /v1/teams/{reference}/sandboxes/kill    200 Tally
    POST   /v1/teams/{reference}/builds/cancel     200 Tally
    GET    /v1/running-counts                      200 {team_id: sandboxes}
    PUT    /v1/nodes/{node_id}/draining            204                    NodeDraining
    POST   /v1/secrets                             201 SecretView         NewSecret; shapes: contracts/secrets.py
    GET    /v1/secrets?team_id=&limit=&cursor=     200 SecretPage, newest first
    GET    /v1/secrets/{selector}?team_id=         200 SecretView         id or name
    POST   /v1/secrets/{selector}                  200 SecretView         SecretUpdate
    DELETE /v1/secrets/{selector}?team_id=         204
    *      /v1/volumes...                                                 contracts/volumes.py
    GET    /v1/workload-token-keys                 200 contracts.egress.SigningKeys
    POST   /v1/sandboxes/{sandbox_id}/rollback     200 SandboxView        NewRollback; Conflict while it is paused
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from appliance.contracts.egress import Egress, EgressProxy, Transform, WorkloadToken
from appliance.contracts.errors import ErrorBody
from appliance.contracts.node import EndReason, HostReport, OnTimeout
from appliance.contracts.volumes import VolumeMount


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class KeyDigest(_Wire):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ResolvedKey(_Wire):
    key_id: str
    team_id: str
    team_slug: str
    scopes: tuple[str, ...] | None = None
    """Of `domain.access.Scope`. None: everything."""
    expires_at: datetime | None = None


class NewKey(_Wire):
    team: str = "default"
    """Slug of the team, made if it does not exist."""
    team_id: str | None = None
    """In place of the slug: a team that exists."""
    name: str = Field(min_length=1, max_length=255)
    scopes: tuple[str, ...] | None = None
    """None: everything."""
    expires_at: datetime | None = None
    """None: never."""


class KeyChange(_Wire):
    team_id: str | None = None
    name: str = Field(min_length=1, max_length=255)


class KeyView(_Wire):
    key_id: str
    team: str
    team_id: str
    name: str
    mask: str
    """`e2b_ab...cdef`: enough to tell keys apart, not to use one."""
    scopes: tuple[str, ...] | None = None
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    """To the minute."""


class CreatedKey(KeyView):
    key: str = Field(repr=False)
    """The key itself, shown this once."""


class SandboxState(StrEnum):
    CREATING = "creating"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    SNAPSHOTTING = "snapshotting"
    ROLLING_BACK = "rolling_back"
    KILLING = "killing"
    ENDED = "ended"


class NewSandbox(Egress):
    team_id: str
    template: str
    """Template id, alias or `team/alias`, with or without `:tag`."""
    timeout_s: int = Field(ge=1)
    metadata: dict[str, str] = Field(default_factory=dict)
    env_vars: dict[str, str] = Field(default_factory=dict, repr=False)
    secure: bool = True
    workload_tokens: dict[str, WorkloadToken] = Field(default_factory=dict)
    """What its header rules may name."""
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    """Whether traffic resumes it from a pause with memory."""
    allow_public_traffic: bool = True
    """False: CubeProxy demands the sandbox's traffic token."""
    mask_request_host: str | None = None
    """What services in the sandbox see as the host, `${PORT}` standing for the port."""
    https_ports: tuple[int, ...] = ()
    """Ports whose services speak TLS themselves: CubeProxy does so too there, and takes any certificate."""
    volumes: tuple[VolumeMount, ...] = ()
    idempotency_key: str | None = Field(default=None, pattern=r"^[!-~]{1,255}$")
    """The same key of the same team is the same sandbox, until that could not be started."""


class SandboxView(_Wire):
    sandbox_id: str
    team_id: str
    template_id: str
    build_id: str
    alias: str | None = None
    state: SandboxState
    started_at: datetime
    end_at: datetime
    vcpus: int
    memory_mib: int
    disk_size_mib: int
    metadata: dict[str, str] = Field(default_factory=dict)
    allow_internet: bool = True
    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] | None = None
    rules: dict[str, tuple[Transform, ...]] = Field(default_factory=dict, repr=False)
    """As they were given. Not in lists, and not of one that has ended; nor is `egress_proxy`."""
    egress_proxy: EgressProxy | None = None
    allow_public_traffic: bool = True
    mask_request_host: str | None = None
    https_ports: tuple[int, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    paused_at: datetime | None = None
    filesystem_only: bool = False
    """Whether a paused one kept its disk alone."""
    envd_version: str
    access_token: str | None = Field(default=None, repr=False)
    traffic_token: str | None = Field(default=None, repr=False)
    """What the proxy demands where `allow_public_traffic` is false. Not in lists."""
    node_id: str
    end_reason: EndReason | None = None
    end_detail: str | None = None
    ended_at: datetime | None = None


class SandboxPage(_Wire):
    sandboxes: tuple[SandboxView, ...]
    next_cursor: str | None = None
    total_running: int | None = None


class NewTimeout(_Wire):
    team_id: str | None = None
    timeout_s: int = Field(ge=0)
    extend_only: bool = False
    """Never shorten: what connect and refreshes do."""


class NewPause(_Wire):
    team_id: str | None = None
    memory: bool = True
    """False keeps the disk alone: the next resume boots."""
    require_healthy_guest: bool = False


class NewResume(_Wire):
    team_id: str | None = None
    timeout_s: int = Field(ge=1)
    memory: bool = True
    """False boots from the disk even where memory was kept."""
    auto_pause: bool | None = None
    """What becomes of it at its next timeout; None: what it was created with."""


class NewConnect(_Wire):
    team_id: str | None = None
    timeout_s: int = Field(ge=1)
    """From now; one that runs is never shortened."""
    memory: bool = True
    """As in `NewResume`, where it has to be resumed."""


class Connected(_Wire):
    sandbox: SandboxView
    resumed: bool


class NewSnapshot(_Wire):
    team_id: str | None = None
    name: str | None = None
    """`[team/]name[:tag]`. Without one it is known by an id alone."""
    memory: bool = True
    """False keeps the disk alone: sandboxes made from it boot."""


class SnapshotView(_Wire):
    snapshot_id: str
    """Usable wherever a template's reference is."""
    names: tuple[str, ...] = ()
    sandbox_id: str
    """The sandbox that it was taken of."""
    template_id: str
    build_id: str
    team_slug: str
    taken_at: datetime


class SnapshotPage(_Wire):
    snapshots: tuple[SnapshotView, ...]
    next_cursor: str | None = None


class NewRollback(_Wire):
    """The sandbox becomes what it was at a snapshot of its own; its id, address, deadline and rules stay."""

    team_id: str | None = None
    snapshot: str
    """Id or name of a snapshot that was taken of this sandbox."""


class NewFork(_Wire):
    team_id: str | None = None
    timeout_s: int = Field(ge=1)
    count: int = Field(default=1, ge=1, le=100)


class Forked(_Wire):
    """One of the two."""

    sandbox: SandboxView | None = None
    error: ErrorBody | None = None


class NewEgress(Egress):
    """What a sandbox may reach from now on, whole: what is left out is back at its default."""

    team_id: str | None = None


LogLevel = Literal["debug", "info", "warn", "error"]


class NodeView(_Wire):
    node_id: str
    state: Literal["ready", "not_ready", "lost"]
    detail: str = ""
    endpoint: str
    version: str
    vmm: str
    accelerator: str
    vcpus: int
    vcpus_reserved: int
    memory_mib: int
    memory_reserved_mib: int
    disk_free_mib: int
    sandboxes: int
    last_heartbeat_at: datetime
    draining: bool = False
    """By the operator's word it gets nothing new."""
    status_changed_at: datetime
    """When state or draining changed."""
    boot_id: str
    host: HostReport | None = None
    """None until the node tells."""
    starting: int = 0
    started_lately: int = 0
    """Sandboxes that it started within the last day."""
    failed_lately: int = 0


class Route(_Wire):
    """Also the value in Redis under `cube:route:<sandboxID>`, as JSON, while it runs; a paused one is not in Redis."""

    node: str
    address: str | None = None
    """None unless it is running."""
    state: Literal["running", "paused", "transitioning"] = "running"
    auto_resume: bool = False
    """Whether `wake` may resume it for traffic, should it be paused."""
    traffic_token_sha256: str | None = None
    """Where set, requests to any port but the agent's must carry the token of this digest. The token is never here."""
    mask_request_host: str | None = None
    https_ports: tuple[int, ...] = ()
    """Ports on which the guest speaks TLS, with a certificate that nobody checks."""
