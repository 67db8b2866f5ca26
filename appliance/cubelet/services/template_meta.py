"""What must be known of a build besides its files: kept beside them, and in the record of each VM made from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from appliance.domain.ids import BuildId, TemplateId


class BuildKind(StrEnum):
    TEMPLATE = "template"
    """Booted, made ready, and saved before any secret was in it."""
    SNAPSHOT = "snapshot"
    """A sandbox as it was at one moment."""


class StartCommand(BaseModel):
    """What a template starts. A sandbox that is booted from its disk starts it again."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    argv: tuple[str, ...]
    user: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    working_dir: str | None = None


class Readiness(BaseModel):
    """How it is known that a template is ready for its snapshot."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    command: str | None = None
    """Shell command that exits 0 then."""
    user: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    working_dir: str | None = None
    probe_port: int | None = None


class TemplateMeta(BaseModel):
    """Readable by this release and the one before."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[1] = 1
    template_id: TemplateId
    build_id: BuildId
    kind: BuildKind = BuildKind.TEMPLATE
    base_build_id: BuildId | None = None
    """The template that a snapshot's sandbox came from in the end: its layers are needed, and its RAM most often."""
    base_memory: bool = False
    """Whether the RAM that `changed_pages` are changes of is that of `base_build_id`, not of this build."""
    machine: str
    vcpus: int
    memory_mib: int
    disk_size_mib: int
    device_state: str | None = "device_state"
    """File of the build with the state of the devices. None: it is a disk alone, and its sandboxes boot."""
    changed_pages: str | None = None
    volume_mib: int
    """Size of the slots for volumes, as the guest has seen it."""
    layers: tuple[str, ...]
    """File names in the layer store, lowest first."""
    agent_disk: str
    """The agent disk the guest was booted with: a path that stays for as long as a build uses it."""
    envd_version: str
    env: dict[str, str] = Field(default_factory=dict)
    default_user: str | None = None
    default_workdir: str | None = None
    start: StartCommand | None = None
    ready: Readiness = Readiness()
    """This and `start` are those of a template that is built from this one, unless it has its own."""
    disk_is_whole: bool = False
    """Whether the guest had written all to `upper.img`, so that another build may boot from a copy of it."""

    @property
    def memory_build_id(self) -> BuildId:
        """Return the build whose memory file RAM of this one is based on."""
        return self.base_build_id if self.base_memory and self.base_build_id is not None else self.build_id

    @property
    def root_build_id(self) -> BuildId:
        """Return the template at the root: this one, or the one that a snapshot's sandbox came from."""
        return self.base_build_id or self.build_id
