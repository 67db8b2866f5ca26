"""Builds that are ready on this node: one directory each, complete or absent.

<root>/<build_id>/meta.json      TemplateMeta, written last
                  memory         RAM, mapped copy-on-write by every clone; a snapshot most often has its base's instead
                  device_state   the VMM's own; in a snapshot vm/device-state, beside the pages that it changed
                  upper.img      writable disk at the moment of the snapshot, copied for every clone
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import ValidationError

from appliance.common.trees import remove_tree
from appliance.cubelet.services.template_meta import BuildKind, TemplateMeta
from appliance.domain.ids import BuildId, TemplateId
from appliance.hypervisor.base import Snapshot

log = structlog.get_logger()

MEMORY, DEVICE_STATE, UPPER = "memory", "device_state", "upper.img"
BOOTED = (MEMORY, DEVICE_STATE, UPPER)
"""The files of a build that was booted for it."""


@dataclass(frozen=True, slots=True)
class ReadyTemplate:
    """A build that sandboxes can be made from."""

    meta: TemplateMeta
    snapshot: Snapshot | None
    """None: it has no RAM, and its sandboxes boot."""
    upper: Path
    layers: tuple[Path, ...]
    agent_disk: Path

    @property
    def template_id(self) -> TemplateId:
        return self.meta.template_id

    @property
    def build_id(self) -> BuildId:
        return self.meta.build_id

    @property
    def pooled(self) -> bool:
        """Whether VMs of it wait for a create: a snapshot may be used once or never."""
        return self.meta.kind is BuildKind.TEMPLATE


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

    def layers_of(self, meta: TemplateMeta) -> tuple[Path, ...]:
        return tuple(self._layers / name for name in meta.layers)

    def memory_of(self, meta: TemplateMeta) -> Path:
        """Return the file that RAM of VMs made from this build is based on."""
        return self._root / meta.memory_build_id / MEMORY

    def workspace(self, build_id: BuildId, *, mode: int = 0o711) -> Path:
        """Return a new directory to build in; only `publish` makes it a template."""
        path = self._root / f".{build_id}"
        remove_tree(path)
        path.mkdir(mode=mode)
        return path

    def publish(self, workspace: Path, meta: TemplateMeta, files: Sequence[str] = BOOTED) -> ReadyTemplate:
        """Turn a workspace with `files` into a build, at once or not at all."""
        for name in files:
            path = workspace / name
            # Cloned from for as long as the build lives; nothing may write them any more.
            path.chmod(0o444)
            _sync(path)
        descriptor = os.open(workspace / "meta.json", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(meta.model_dump_json(indent=2))
            file.flush()
            os.fsync(descriptor)
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

    def based_on(self, build_id: BuildId) -> tuple[BuildId, ...]:
        """Return the snapshots that need a build."""
        return tuple(one.build_id for one in self._ready.values() if one.meta.base_build_id == build_id)

    def layers_in_use(self) -> frozenset[str]:
        """Return the layer file names that ready builds need."""
        return frozenset(layer for template in self._ready.values() for layer in template.meta.layers)

    def _ready_template(self, meta: TemplateMeta) -> ReadyTemplate:
        directory = self._root / meta.build_id
        snapshot = None
        if meta.device_state is not None:
            snapshot = Snapshot(
                memory_file=self.memory_of(meta),
                device_state=directory / meta.device_state,
                machine=meta.machine,
                vcpus=meta.vcpus,
                memory_mib=meta.memory_mib,
                changed_pages=directory / meta.changed_pages if meta.changed_pages is not None else None,
            )
        return ReadyTemplate(
            meta=meta,
            snapshot=snapshot,
            upper=directory / UPPER,
            layers=self.layers_of(meta),
            agent_disk=Path(meta.agent_disk),
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
