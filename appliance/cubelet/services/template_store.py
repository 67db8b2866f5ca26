"""Templates that are ready on this node: one directory a build, complete or absent.

<root>/<build_id>/meta.json      TemplateMeta, written last
                  memory         RAM, mapped copy-on-write by every clone
                  device_state   the VMM's own
                  upper.img      writable disk at the moment of the snapshot, copied for every clone
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.domain.ids import BuildId, TemplateId
from appliance.hypervisor.base import Snapshot

log = structlog.get_logger()

MEMORY, DEVICE_STATE, UPPER = "memory", "device_state", "upper.img"


class StartCommand(BaseModel):
    """What a template has running when its snapshot is taken."""

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
    """What must be known of a build besides its files. Readable by this release and the one before."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[1] = 1
    template_id: TemplateId
    build_id: BuildId
    machine: str
    vcpus: int
    memory_mib: int
    disk_size_mib: int
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


@dataclass(frozen=True, slots=True)
class ReadyTemplate:
    """A build that sandboxes can be cloned from."""

    meta: TemplateMeta
    snapshot: Snapshot
    upper: Path
    layers: tuple[Path, ...]
    agent_disk: Path

    @property
    def template_id(self) -> TemplateId:
        return self.meta.template_id

    @property
    def build_id(self) -> BuildId:
        return self.meta.build_id


class TemplateStore:
    """Knows the ready builds; read from disk once, at start."""

    def __init__(self, root: Path, layers: Path) -> None:
        self._root = root
        self._layers = layers
        self._ready: dict[BuildId, ReadyTemplate] = {}

    def load(self) -> None:
        """Read every complete build, and remove what an interrupted one left."""
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for directory in sorted(self._root.iterdir()):
            if directory.name.startswith("."):
                shutil.rmtree(directory)
                continue
            try:
                meta = TemplateMeta.model_validate_json((directory / "meta.json").read_bytes())
            except (OSError, ValidationError) as error:
                log.error("template_unreadable", directory=str(directory), error=str(error))
                continue
            self._ready[meta.build_id] = self._ready_template(meta)

    def get(self, build_id: BuildId) -> ReadyTemplate | None:
        return self._ready.get(build_id)

    def all(self) -> tuple[ReadyTemplate, ...]:
        return tuple(self._ready.values())

    def workspace(self, build_id: BuildId) -> Path:
        """Return a new directory to build in; only `publish` makes it a template."""
        path = self._root / f".{build_id}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o711)
        return path

    def publish(self, workspace: Path, meta: TemplateMeta) -> ReadyTemplate:
        """Turn a workspace with `memory`, `device_state` and `upper.img` into a template, at once or not at all."""
        for name in (MEMORY, DEVICE_STATE, UPPER):
            path = workspace / name
            # Cloned from for as long as the template lives; nothing may write them any more.
            path.chmod(0o444)
            _sync(path)
        (workspace / "meta.json").write_text(meta.model_dump_json(indent=2))
        _sync(workspace / "meta.json")
        _sync(workspace)
        workspace.rename(self._root / meta.build_id)
        _sync(self._root)
        template = self._ready_template(meta)
        self._ready[meta.build_id] = template
        return template

    def delete(self, build_id: BuildId) -> None:
        """Remove a build. Absent builds are success."""
        self._ready.pop(build_id, None)
        doomed = self._root / f".deleted-{build_id}"
        try:
            (self._root / build_id).rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed)

    def layers_in_use(self) -> frozenset[str]:
        """Return the layer file names that ready builds need."""
        return frozenset(layer for template in self._ready.values() for layer in template.meta.layers)

    def _ready_template(self, meta: TemplateMeta) -> ReadyTemplate:
        directory = self._root / meta.build_id
        return ReadyTemplate(
            meta=meta,
            snapshot=Snapshot(
                memory_file=directory / MEMORY,
                device_state=directory / DEVICE_STATE,
                machine=meta.machine,
                vcpus=meta.vcpus,
                memory_mib=meta.memory_mib,
            ),
            upper=directory / UPPER,
            layers=tuple(self._layers / name for name in meta.layers),
            agent_disk=Path(meta.agent_disk),
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
