"""The record of every VM on this node, on disk before anything else exists of it.

A record is what a restarted Cubelet knows: which process, tap and files belong together, and what they are for.
Records are replaced atomically. They are not fsynced: after a power loss the processes they describe are gone too, and
what remains on disk is found by directory name. Only those of paused sandboxes are, which outlive the node's boot.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.common.trees import remove_tree, sync_directory
from appliance.contracts.node import EndReason, OnTimeout
from appliance.cubelet.services.template_meta import TemplateMeta
from appliance.cubevs.base import Tap
from appliance.domain.ids import BuildId, SandboxId, TemplateId, VmId, VolumeId
from appliance.hypervisor.base import VmProcess

log = structlog.get_logger()

UPPER = "upper.img"
_SAVED = "saved.json"


class Stage(StrEnum):
    PREPARING = "preparing"
    """Being restored, or replaced by a rollback; it belongs to nobody and is destroyed by a restart."""
    WAITING = "waiting"
    """In the pool: restored, warmed, paused."""
    CREATING = "creating"
    """Claimed for a sandbox that has not been answered yet."""
    RUNNING = "running"
    PAUSING = "pausing"
    """Being saved: it goes on running until `saved` is there, and is paused, whatever happens, from then on."""
    PAUSED = "paused"
    """Its state is in `saved`, and nothing else of it exists."""
    RESUMING = "resuming"
    """Being restored from `saved`; until it is RUNNING, it is as if PAUSED."""
    ENDING = "ending"


class _Record(BaseModel):
    # A newer release may have added fields; the older one keeps running after a rollback.
    model_config = ConfigDict(extra="ignore", frozen=True)


class AttachedVolume(_Record):
    """A volume that a VM has in the slot of its place among them, for as long as its record exists."""

    volume_id: VolumeId
    path: str
    """Where it is in the guest."""


class SandboxRecord(_Record):
    sandbox_id: SandboxId
    started_at: datetime
    end_at: datetime
    on_timeout: OnTimeout = OnTimeout.KILL
    pooled: bool
    network_revision: str = ""
    """Of the rules it was last given."""
    trusts_authority: bool = False
    """Has its guest been told to trust the certificates that the egress proxy shows it?"""


class VmRecord(_Record):
    version: Literal[1] = 1
    vm_id: VmId
    template_id: TemplateId
    build_id: BuildId
    envd_version: str
    meta: TemplateMeta | None = None
    """What it was made from. That build may be deleted before it, where it was a snapshot. None: it makes a build."""
    tap_name: str | None = None
    tap_ifindex: int | None = None
    address: IPv4Address | None = None
    """All three None while it is paused."""
    boot_id: str
    """Boot of the node that process and tap belong to."""
    stage: Stage
    generation: int = 0
    """Counts pauses, resumes and rollbacks. Of two machines of one sandbox, the higher one is it."""
    own_memory: str | None = None
    """Name, in `memory`, of the file that its RAM is based on, where that is not the template's."""
    machine: str = ""
    """`Snapshot.machine` of what it was cloned from."""
    paused_at: datetime | None = None
    filesystem_only: bool = False
    """Whether what is saved of it is its disk alone."""
    process: VmProcess | None = None
    sandbox: SandboxRecord | None = None
    volumes: tuple[AttachedVolume, ...] = ()
    end_reason: EndReason | None = None
    end_detail: str = Field(default="", max_length=2000)

    @property
    def tap(self) -> Tap | None:
        if self.tap_name is None or self.tap_ifindex is None or self.address is None:
            return None
        return Tap(name=self.tap_name, ifindex=self.tap_ifindex, address=self.address)


class Saved(_Record):
    """What must be known of a paused sandbox besides the files beside this: the last of them to be written."""

    paused_at: datetime
    filesystem_only: bool
    own_memory: str | None
    machine: str
    environment: dict[str, str] | None = Field(default=None, repr=False)
    """The guest's variables, where the disk alone is kept: what else is kept has them."""

    def write(self, directory: Path) -> None:
        """Write this into the new directory `directory`, durably. Blocks."""
        descriptor = os.open(directory / _SAVED, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.model_dump_json())
            file.flush()
            os.fsync(descriptor)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record in a form that this release does not know: it may describe a running sandbox, so all is left alone."""

    vm_id: VmId
    tap_name: str | None
    """The tap it names, where it is a record at all."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is below a `RecordStore`'s root."""

    records: tuple[VmRecord, ...]
    unreadable: tuple[Unreadable, ...]
    debris: tuple[VmId, ...]
    """Directories without a record, left by an interrupted create or removal."""


class RecordStore:
    """Directories of VMs, one each.

    <root>/<vm_id>/record.json   VmRecord
                   upper.img     writable disk, while the VM exists
                   memory/       RAM that the VM's is based on, where that is not its template's
                   saved/        what is kept of a paused one: saved.json, upper.img, and vm/ with its state
                   *.partial     half-made, or half-removed
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, vm_id: VmId) -> Path:
        return self._root / vm_id

    def upper(self, vm_id: VmId) -> Path:
        return self._root / vm_id / UPPER

    def saved(self, vm_id: VmId) -> Path:
        return self._root / vm_id / "saved"

    def memory(self, vm_id: VmId, name: str) -> Path:
        return self._root / vm_id / "memory" / name

    def create(self, record: VmRecord) -> None:
        """Make the VM's directory and its first record."""
        # Search permission only: the VMM's own user must reach its disk by name, and list nothing.
        self.directory(record.vm_id).mkdir(mode=0o711, parents=True)
        self.save(record)

    def save(self, record: VmRecord) -> None:
        self._write(record, durably=False)

    def save_durably(self, record: VmRecord) -> None:
        """Save a record that must outlive a power cut. Blocks."""
        self._write(record, durably=True)
        for directory in (self.directory(record.vm_id), self._root):
            sync_directory(directory)

    def _write(self, record: VmRecord, *, durably: bool) -> None:
        path = self.directory(record.vm_id) / "record.json"
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(record.model_dump_json())
            if durably:
                file.flush()
                os.fsync(descriptor)
        temporary.replace(path)

    def has_saved(self, vm_id: VmId) -> bool:
        return self.saved(vm_id).is_dir()

    def read_saved(self, vm_id: VmId) -> Saved:
        return Saved.model_validate_json((self.saved(vm_id) / _SAVED).read_bytes())

    def forget_saved(self, vm_id: VmId) -> None:
        """Remove what was kept of a pause, at once or not at all. Blocks."""
        doomed = self.directory(vm_id) / "forgotten.partial"
        # What is left of it is swept, by its name, at the next start.
        remove_tree(doomed)
        with suppress(FileNotFoundError):
            self.saved(vm_id).rename(doomed)
        remove_tree(doomed)

    def sweep(self, record: VmRecord) -> None:
        """Remove what an interrupted pause or resume left beside a record, and RAM that nothing is based on."""
        directory = self.directory(record.vm_id)
        for partial in directory.glob("*.partial"):
            remove_tree(partial)
        for memory in (directory / "memory").glob("*"):
            if memory.name != record.own_memory:
                memory.unlink()

    def read(self, vm_id: VmId) -> VmRecord | None:
        try:
            return VmRecord.model_validate_json((self.directory(vm_id) / "record.json").read_bytes())
        except FileNotFoundError:
            return None

    def delete(self, vm_id: VmId) -> None:
        """Remove the record and all that is beside it. Absent ones are success."""
        remove_tree(self.directory(vm_id))

    def layers_in_use(self) -> frozenset[str]:
        """Return the layer file names that sandboxes need, now or when they are resumed."""
        records = (one for one in self.load().records if one.sandbox is not None and one.meta is not None)
        return frozenset(layer for record in records if record.meta is not None for layer in record.meta.layers)

    def load(self) -> Loaded:
        records: list[VmRecord] = []
        unreadable: list[Unreadable] = []
        debris: list[VmId] = []
        for directory in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            vm_id = VmId(directory.name)
            try:
                content = (directory / "record.json").read_bytes()
            except FileNotFoundError:
                debris.append(vm_id)
                continue
            try:
                records.append(VmRecord.model_validate_json(content))
            except ValidationError as error:
                log.error("record_unreadable", vm_id=vm_id, error=str(error))
                unreadable.append(Unreadable(vm_id, _tap_name(content)))
        return Loaded(records=tuple(records), unreadable=tuple(unreadable), debris=tuple(debris))


def _tap_name(content: bytes) -> str | None:
    try:
        record = json.loads(content)
    except ValueError:
        return None
    name = record.get("tap_name") if isinstance(record, dict) else None
    return name if isinstance(name, str) else None
