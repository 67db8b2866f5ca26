"""Disks as they were after steps of earlier builds: one directory each, complete or absent, the oldest go first.

<root>/<key>/meta.json   KeptStep, touched at each use
             upper.img   the guest's writable disk, copied for every build that goes on from it

Used under the lock of builds only: nothing is removed while it is copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from appliance.common.threads import in_thread
from appliance.common.trees import remove_tree
from appliance.cubelet.builds.context import StepContext
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.services.template_store import UPPER
from appliance.storage.base import DiskStore

log = structlog.get_logger()

_META = "meta.json"


class KeptStep(BaseModel):
    """What must be known besides the disk."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    template_id: str
    user: str
    workdir: str
    env: dict[str, str]

    @property
    def context(self) -> StepContext:
        return StepContext(user=self.user, workdir=self.workdir, env=self.env)


@dataclass(slots=True)
class _Entry:
    kept: KeptStep
    size_bytes: int


class StepCache:
    """At most `limit_bytes` of disks, and none that would leave the node less than `reserve_bytes`."""

    def __init__(
        self, root: Path, *, disks: DiskStore, metrics: CubeletMetrics, limit_bytes: int, reserve_bytes: int
    ) -> None:
        self._root = root
        self._disks = disks
        self._metrics = metrics
        self._limit = limit_bytes
        self._reserve = reserve_bytes
        self._entries: dict[str, _Entry] = {}
        """Least recently used first."""

    def load(self) -> None:
        """Read what is there, and remove what an interrupted Cubelet left."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        found: list[tuple[int, str, _Entry]] = []
        for directory in self._root.iterdir():
            try:
                used = (directory / _META).stat().st_mtime_ns
                kept = KeptStep.model_validate_json((directory / _META).read_bytes())
                found.append((used, directory.name, _Entry(kept, _allocated(directory / UPPER))))
            except (OSError, ValidationError):
                # No use as an entry. What cannot be removed now is met again at the next start.
                remove_tree(directory)
        self._entries = {name: entry for _, name, entry in sorted(found, key=lambda one: one[:2])}
        self._evict()
        self._sweep()
        self._count()

    def has(self, key: str) -> bool:
        return key in self._entries

    def use(self, key: str) -> tuple[Path, StepContext]:
        """Return the disk to copy and the context that goes with it; it is now the youngest."""
        entry = self._entries[key] = self._entries.pop(key)
        os.utime(self._root / key / _META)
        return self._root / key / UPPER, entry.kept.context

    def has_room_for(self, disk: Path) -> bool:
        """Whether a copy of a disk may be kept at all."""
        size = _allocated(disk)
        return size <= self._limit and shutil.disk_usage(self._root).free - size >= self._reserve

    async def keep(
        self, key: str, template_id: str, context: StepContext, copy_to: Callable[[Path], Awaitable[None]]
    ) -> None:
        """Keep a disk that `copy_to` copies, whole or not at all."""
        partial = self._root / f".{key}"
        try:
            _make_anew(partial)
            await copy_to(partial / UPPER)
            await self._disks.sync_upper(partial / UPPER)
            kept = KeptStep(template_id=template_id, user=context.user, workdir=context.workdir, env=dict(context.env))
            (partial / _META).write_text(kept.model_dump_json())
            self._remove(key)
            partial.rename(self._root / key)
            self._entries[key] = _Entry(kept, _allocated(self._root / key / UPPER))
            self._evict()
            self._count()
        finally:
            await in_thread(self._sweep)

    async def drop_template(self, template_id: str) -> None:
        """Remove all that is of a template."""
        for key in [key for key, entry in self._entries.items() if entry.kept.template_id == template_id]:
            self._remove(key)
        self._count()
        await in_thread(self._sweep)

    def _evict(self) -> None:
        total = sum(entry.size_bytes for entry in self._entries.values())
        for key in list(self._entries):
            if total <= self._limit:
                return
            total -= self._entries[key].size_bytes
            self._remove(key)
            log.info("kept_step_evicted", key=key)

    def _remove(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            (self._root / key).rename(self._root / f".deleted-{key}")

    def _sweep(self) -> None:
        # What has such a name is unfinished or doomed. Freeing the blocks of a disk takes a while.
        for directory in self._root.glob(".*"):
            remove_tree(directory)

    def _count(self) -> None:
        self._metrics.kept_steps.set(len(self._entries))
        self._metrics.kept_step_bytes.set(sum(entry.size_bytes for entry in self._entries.values()))


def _make_anew(directory: Path) -> None:
    # It is rarely there; where it is and stays, making it fails.
    remove_tree(directory)
    directory.mkdir(mode=0o700)


def _allocated(disk: Path) -> int:
    return disk.stat().st_blocks * 512
