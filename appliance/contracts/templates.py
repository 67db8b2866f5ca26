"""Templates and builds between CubeMaster and its callers: part of the interface that `contracts/master.py` lists."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from appliance.contracts.node import BuildLogEntry, RegistryLogin


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class NewTemplate(_Wire):
    team: str = "default"
    """Slug of the owning team, made if it does not exist."""
    image: str
    registry: RegistryLogin | None = None
    alias: str | None = None
    vcpus: int = Field(default=2, ge=1, le=64)
    memory_mib: int = Field(default=512, ge=128)
    writable_layer_mib: int = Field(default=1024, ge=16)
    start_cmd: str | None = None
    ready_cmd: str | None = None
    probe_port: int | None = Field(default=None, ge=1, le=65535)
    exposed_ports: tuple[int, ...] = ()
    public: bool = False


class NewTemplateBuild(_Wire):
    """A build of E2B's template builder, whose base and steps come later, with `BuildStart`."""

    team_id: str
    name: str = Field(max_length=512)
    """`[team/]name[:tag]`: a new template, or one of the team's, which then gets one more build."""
    tags: tuple[str, ...] = Field(default=(), max_length=100)
    """Besides the one in `name`. None at all means `default`."""
    vcpus: int | None = None
    memory_mib: int | None = None
    min_free_disk_mib: int | None = None
    """Room on the disk besides what steps are given, or the base template has. None, as for sizes: settings say."""


class NewBuildStep(_Wire):
    """As a client sent it: CubeMaster says what is wrong with it."""

    type: str
    args: tuple[str, ...] = ()
    files_hash: str | None = None
    force: bool = False


class BuildStart(_Wire):
    """What a draft is made from. One of `image` and `template`."""

    team_id: str
    template_id: str
    """The draft must be one of this template."""
    image: str | None = Field(default=None, max_length=1024)
    """A reference to a registry, and nothing else."""
    template: str | None = Field(default=None, max_length=512)
    registry: RegistryLogin | None = None
    steps: tuple[NewBuildStep, ...] = ()
    force: bool = False
    start_cmd: str | None = Field(default=None, max_length=65535)
    ready_cmd: str | None = Field(default=None, max_length=65535)


class Upload(_Wire):
    """Leave to put the files of a COPY: `expires` and `signature` are what that PUT must carry."""

    template_id: str
    present: bool
    expires: int
    signature: str = Field(repr=False)


class BuildStatus(StrEnum):
    WAITING = "waiting"
    BUILDING = "building"
    READY = "ready"
    ERROR = "error"


class BuildView(_Wire):
    template_id: str
    build_id: str
    """A UUID: SDKs parse it as one. The CLI calls it the job id."""
    status: BuildStatus
    reason: str | None = None
    step: str | None = None
    reason_logs: tuple[BuildLogEntry, ...] = ()
    """The last that was logged of the step that failed."""
    logs: tuple[BuildLogEntry, ...] = ()
    created_at: datetime
    finished_at: datetime | None = None
    vcpus: int
    memory_mib: int
    disk_size_mib: int | None = None
    envd_version: str | None = None


class BuildPage(_Wire):
    builds: tuple[BuildView, ...]
    next_cursor: str | None = None


class TemplateChange(_Wire):
    team_id: str | None = None
    public: bool | None = None
    """None: as it is."""


class NewTags(_Wire):
    team_id: str | None = None
    target: str
    """`name[:tag]`, or a template id in place of the name: the build that the tags shall mean."""
    tags: tuple[str, ...]


class AssignedTags(_Wire):
    tags: tuple[str, ...]
    build_id: str


class OldTags(_Wire):
    team_id: str | None = None
    name: str
    tags: tuple[str, ...]


class TagView(_Wire):
    tag: str
    build_id: str
    assigned_at: datetime


class TemplateView(_Wire):
    template_id: str
    build_id: str
    """The newest READY build, or the newest where none is ready."""
    team_id: str
    team_slug: str
    aliases: tuple[str, ...] = ()
    public: bool
    vcpus: int
    memory_mib: int
    disk_size_mib: int
    envd_version: str
    status: BuildStatus
    reason: str | None = None
    image: str | None
    """None where it was made from another template, or of nothing yet."""
    nodes: tuple[str, ...] = ()
    """Nodes that hold a ready replica."""
    created_at: datetime
    updated_at: datetime
    last_spawned_at: datetime | None = None
    spawn_count: int = 0
    build_count: int = 1


class RequestedBuild(_Wire):
    template: TemplateView
    build_id: str
    tags: tuple[str, ...]
    """All that will point to it once it is READY."""


class TemplatePage(_Wire):
    templates: tuple[TemplateView, ...]
    next_cursor: str | None = None
