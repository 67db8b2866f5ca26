"""Cubelet's interface, called by CubeMaster only. Times are aware UTC; sizes carry their unit in the name.

GET    /health                                      204
GET    /v1/node                                     200 NodeStatus
POST   /v1/builds                                   202               BuildRequest; the same id again is success
GET    /v1/builds/{build_id}?log_offset=N           200 BuildProgress
DELETE /v1/templates/{template_id}/builds/{build_id} 204              Conflict while sandboxes of it run
PUT    /v1/sandboxes/{sandbox_id}                   200 NodeSandbox   CreateSandbox; the same id again is the same one
GET    /v1/sandboxes                                200 [NodeSandbox]
GET    /v1/sandboxes/{sandbox_id}                   200 NodeSandbox
PUT    /v1/sandboxes/{sandbox_id}/deadline          204               Deadline
PUT    /v1/sandboxes/{sandbox_id}/access-token      204               AccessToken
GET    /v1/sandboxes/{sandbox_id}/metrics?start=&end= 200 [MetricSample], oldest first, both ends inclusive
GET    /v1/sandboxes/{sandbox_id}/logs?at=&backward=&limit=&level=&search= 200 [SandboxLogEntry], also of one that has
                                                    ended lately; oldest first, or newest first and `backward`
GET    /v1/sandbox-metrics?sandbox_ids=a,b          200 {sandbox_id: MetricSample}: the newest of each that has any
POST   /v1/sandboxes/{sandbox_id}/pause             204               Pause; a paused one is success
POST   /v1/sandboxes/{sandbox_id}/resume            200 NodeSandbox   Resume; a running one is success
PUT    /v1/sandboxes/{sandbox_id}/network           204               NetworkPolicy, in force when it answers
POST   /v1/sandboxes/{sandbox_id}/rollback          200 NodeSandbox   Rollback, of a running one; on failure it runs on
POST   /v1/sandboxes/{sandbox_id}/snapshot          201 SnapshotTaken Snapshot; the same build id again is the same one
DELETE /v1/sandboxes/{sandbox_id}                   204               also when it is gone
*      /v1/volumes...                               contracts/node_volumes.py

A snapshot of a sandbox is a build like any other: sandboxes are created from it by its build id, and it is deleted as
one. It needs the build that its sandbox came from, which cannot be deleted before it.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from appliance.contracts.node_network import NetworkPolicy
from appliance.contracts.node_volumes import NodeVolumeMount


class _Wire(BaseModel):
    # Nodes and masters of neighbouring releases talk to each other: unknown fields are newer ones.
    model_config = ConfigDict(extra="ignore", frozen=True)


class EndReason(StrEnum):
    """Why a sandbox ended: durable, and shown by API, CLI and dashboard."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    OOM_GUEST = "oom_guest"
    OOM_HOST = "oom_host"
    GUEST_PANIC = "guest_panic"
    VMM_DIED = "vmm_died"
    NODE_LOST = "node_lost"
    NODE_REBOOTED = "node_rebooted"
    DISK_FULL = "disk_full"
    EVICTED = "evicted"
    FAILED_START = "failed_start"


class RegistryLogin(_Wire):
    username: str
    password: str = Field(repr=False)
    aws_region: str | None = None
    """Where set, the two are an access key of AWS, for which Amazon's registry in that region gives the real login."""


class BuildStep(_Wire):
    """One step of E2B's template builder, run inside the guest."""

    type: str
    """`RUN`, `COPY`, `ENV`, `WORKDIR` or `USER`."""
    args: tuple[str, ...] = ()
    files_hash: str | None = None
    """What a COPY unpacks: CubeMaster's `GET /v1/template-files/{template_id}/{hash}`, a tar, gzipped or not."""
    force: bool = False
    """Run this step and all after it anew."""


class BuildRequest(_Wire):
    """Make a template ready on this node."""

    template_id: str
    build_id: str
    image: str | None = None
    """`oci:<dir>[:tag]`, `docker-archive:<file>[:ref]` or a registry reference. Or `from_build`, never both."""
    from_build: str | None = None
    """A build that is ready on this node, to start from its disk."""
    steps: tuple[BuildStep, ...] | None = None
    """None for an operator's template of an image as it is; else E2B's rules hold, even where there are no steps: user
    `user` with sudo, default directory `/home/user`, `/.e2b`."""
    force: bool = False
    """Use no step of an earlier build."""
    registry: RegistryLogin | None = None
    vcpus: int = Field(ge=1)
    memory_mib: int = Field(ge=128)
    writable_layer_mib: int = Field(ge=16)
    start_cmd: str | None = None
    """Shell command run in the background. Absent: the image's entrypoint and command, if it has any."""
    ready_cmd: str | None = None
    """Shell command retried until it exits 0."""
    probe_port: int | None = Field(default=None, ge=1, le=65535)
    """Port that must answer HTTP, below 500, before the snapshot is taken."""
    exposed_ports: tuple[int, ...] = ()


class BuildState(StrEnum):
    BUILDING = "building"
    READY = "ready"
    ERROR = "error"


class BuildLogEntry(_Wire):
    timestamp: datetime
    level: str = "info"
    message: str
    step: str | None = None


class BuildProgress(_Wire):
    build_id: str
    state: BuildState
    logs: tuple[BuildLogEntry, ...]
    """Entries from `log_offset` on."""
    reason: str | None = None
    """Why it is in ERROR."""
    step: str | None = None
    """The step that failed: `base`, a step number, or `finalize`."""
    disk_size_mib: int | None = None
    envd_version: str | None = None
    layers: tuple[str, ...] = ()


class OnTimeout(StrEnum):
    """What the node does by itself when a sandbox's time is up."""

    KILL = "kill"
    PAUSE = "pause"
    PAUSE_FILESYSTEM = "pause_filesystem"


class CreateSandbox(_Wire):
    template_id: str
    build_id: str
    end_at: datetime
    on_timeout: OnTimeout = OnTimeout.KILL
    env_vars: dict[str, str] = Field(default_factory=dict, repr=False)
    access_token: str | None = Field(default=None, repr=False)
    """Token the guest agent will demand; None leaves it open (an unsecured E2B 1.x sandbox)."""
    network: NetworkPolicy = NetworkPolicy()
    volumes: tuple[NodeVolumeMount, ...] = ()
    """At most `MAX_VOLUMES`; VolumeInUse where another sandbox has one."""


class Pause(_Wire):
    memory: bool = True
    """False keeps the disk alone: the next resume boots."""
    require_healthy_guest: bool = False
    """Raise GuestUnresponsive, and leave it running, where the guest agent does not answer."""


class Resume(_Wire):
    end_at: datetime
    on_timeout: OnTimeout = OnTimeout.KILL
    memory: bool = True
    """False boots from the disk even where memory was kept."""
    access_token: str | None = Field(default=None, repr=False)
    network: NetworkPolicy = NetworkPolicy()


class Snapshot(_Wire):
    template_id: str
    build_id: str
    memory: bool = True
    """False keeps the disk alone: sandboxes made from it boot."""


class Rollback(_Wire):
    """A new machine of a snapshot takes the place of the sandbox's, which goes once the new one has an identity."""

    build_id: str
    """A snapshot that was taken of this sandbox, ready on this node."""
    access_token: str | None = Field(default=None, repr=False)
    network: NetworkPolicy = NetworkPolicy()


class SnapshotTaken(_Wire):
    build_id: str
    envd_version: str
    disk_size_mib: int


class NodeSandboxState(StrEnum):
    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"


class NodeSandbox(_Wire):
    sandbox_id: str
    template_id: str
    build_id: str
    state: NodeSandboxState
    generation: int = 0
    """Counts its pauses, resumes and rollbacks, so that an older report of its state is told from a newer one."""
    paused_at: datetime | None = None
    filesystem_only: bool = False
    """Whether a paused one has its disk alone."""
    address: str | None = None
    """IPv4 address under which this node reaches the guest; none while it is paused."""
    started_at: datetime
    end_at: datetime
    envd_version: str
    pooled: bool
    """Whether it was claimed from the pool rather than cloned on demand."""
    changing: bool = False
    """Whether a pause, resume, rollback, snapshot or kill of it is under way: all this may be otherwise in a moment."""
    network_revision: str = ""
    """Of the rules in force; while it is paused, of those that were."""
    sampled: bool = True
    """False where the node lost the token it needs to ask the guest for its metrics."""


class AccessToken(_Wire):
    access_token: str | None = Field(repr=False)
    """What the guest agent demands; None where it is open."""


class MetricSample(_Wire):
    """What a guest says it uses."""

    at: datetime
    """By the node's clock."""
    cpu_count: int
    cpu_used_pct: float
    memory_used_bytes: int
    memory_total_bytes: int
    memory_cache_bytes: int
    disk_used_bytes: int
    disk_total_bytes: int


MAX_LOG_ENTRIES = 1000
"""Of one answer."""


class SandboxLogEntry(_Wire):
    """A line of a sandbox's log: text of its guest, and never more than that."""

    timestamp: datetime
    level: str
    logger: str
    message: str
    fields: dict[str, str] = Field(default_factory=dict)


class Deadline(_Wire):
    end_at: datetime


class Replica(_Wire):
    """A template that is ready on this node."""

    template_id: str
    build_id: str
    pooled: int = 0
    """Restored VMs waiting to be claimed."""


class EndedSandbox(_Wire):
    """Kept by the node until CubeMaster has taken it."""

    sandbox_id: str
    reason: EndReason
    detail: str = ""
    ended_at: datetime


class HostDisk(_Wire):
    mount_point: str
    device: str
    filesystem_type: str
    used_bytes: int
    total_bytes: int


class HostReport(_Wire):
    """The machine below the node, whoever uses it."""

    cpu_count: int
    cpu_used_pct: float
    """Of all processors, since the heartbeat before."""
    memory_total_bytes: int
    memory_used_bytes: int
    huge_pages_total: int
    huge_pages_used: int
    huge_pages_reserved: int
    huge_page_size_bytes: int
    disk: HostDisk
    """The file system that templates and sandboxes are on."""
    cpu_family: str
    cpu_model: str
    cpu_model_name: str
    cpu_architecture: str


class NodeStatus(_Wire):
    node_id: str
    version: str
    endpoint: str
    """How CubeMaster reaches this node: `unix:///path` or `https://host:port`."""
    boot_id: str
    """/proc/sys/kernel/random/boot_id of the node: a new one means that every running sandbox ended."""
    vmm: str
    accelerator: str
    vcpus: int
    """Processors of the node times its overcommit."""
    memory_mib: int
    """Memory that sandboxes may be promised."""
    disk_free_mib: int
    ready: bool
    """Whether it takes new sandboxes."""
    detail: str = ""
    """Why not, where it does not."""
    sandboxes: tuple[NodeSandbox, ...] = ()
    replicas: tuple[Replica, ...] = ()
    host: HostReport | None = None
