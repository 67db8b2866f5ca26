"""The record of every VM on this node, on disk before anything else exists of it.

A record is what a restarted Cubelet knows: which process, tap, user and files belong together, and what they are for.
Records are replaced atomically. They are not fsynced: after a power loss the processes they describe are gone too, and
what remains on disk is found by directory name.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.contracts.node import EndReason
from appliance.cubevs.base import Tap
from appliance.domain.ids import BuildId, SandboxId, TemplateId, VmId
from appliance.hypervisor.base import VmProcess

log = structlog.get_logger()


class Stage(StrEnum):
    PREPARING = "preparing"
    """Being restored; it belongs to nobody and is destroyed by a restart."""
    WAITING = "waiting"
    """In the pool: restored, warmed, paused."""
    CREATING = "creating"
    """Claimed for a sandbox that has not been answered yet."""
    RUNNING = "running"
    ENDING = "ending"


class _Record(BaseModel):
    # A newer release may have added fields; the older one keeps running after a rollback.
    model_config = ConfigDict(extra="ignore", frozen=True)


class SandboxRecord(_Record):
    sandbox_id: SandboxId
    started_at: datetime
    end_at: datetime
    pooled: bool


class VmRecord(_Record):
    version: Literal[1] = 1
    vm_id: VmId
    template_id: TemplateId
    build_id: BuildId
    envd_version: str
    uid: int
    tap_name: str
    tap_ifindex: int
    address: IPv4Address
    boot_id: str
    """Boot of the node that the process belongs to."""
    stage: Stage
    process: VmProcess | None = None
    sandbox: SandboxRecord | None = None
    end_reason: EndReason | None = None
    end_detail: str = Field(default="", max_length=2000)

    @property
    def tap(self) -> Tap:
        return Tap(name=self.tap_name, ifindex=self.tap_ifindex, address=self.address)


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
    """`<root>/<vm_id>/record.json`, beside the VM's writable disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, vm_id: VmId) -> Path:
        return self._root / vm_id

    def upper(self, vm_id: VmId) -> Path:
        return self._root / vm_id / "upper.img"

    def create(self, record: VmRecord) -> None:
        """Make the VM's directory and its first record."""
        # Search permission only: the VMM's own user must reach its disk by name, and list nothing.
        self.directory(record.vm_id).mkdir(mode=0o711, parents=True)
        self.save(record)

    def save(self, record: VmRecord) -> None:
        path = self.directory(record.vm_id) / "record.json"
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(record.model_dump_json())
        temporary.replace(path)

    def read(self, vm_id: VmId) -> VmRecord | None:
        try:
            return VmRecord.model_validate_json((self.directory(vm_id) / "record.json").read_bytes())
        except FileNotFoundError:
            return None

    def delete(self, vm_id: VmId) -> None:
        """Remove the record and all that is beside it. Absent ones are success."""
        shutil.rmtree(self.directory(vm_id), ignore_errors=True)

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
