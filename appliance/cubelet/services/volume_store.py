"""The volumes on this node's disk: one sparse image each, which no host ever mounts.

<root>/<volume_id>.img    there as a whole, or not at all
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.common.trees import sync_directory
from appliance.domain.errors import InvalidRequest, VolumeNotFound
from appliance.domain.ids import VOLUME_ID, VolumeId
from appliance.storage.base import DiskStore
from appliance.storage.publish import storage_errors

_SUFFIX = ".img"
_BLOCK_BYTES = 512
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Volume:
    volume_id: VolumeId
    image: Path
    size_mib: int
    used_mib: int
    """What it takes on the node's disk."""


class VolumeStore:
    def __init__(self, root: Path, disks: DiskStore, *, size_mib: int) -> None:
        self._root = root
        self._disks = disks
        self._size_mib = size_mib

    async def create(self, volume_id: VolumeId, *, size_mib: int) -> None:
        """Make an empty volume. One that exists is left as it is."""
        if not VOLUME_ID.fullmatch(volume_id):
            raise InvalidRequest(f"'{volume_id}' cannot be the id of a volume")
        if self._image(volume_id).exists():
            return
        if size_mib != self._size_mib:
            raise InvalidRequest(
                f"volumes of this node have {self._size_mib} MiB, not {size_mib}, as its machines have slots of that "
                "size; ask for it, or change Cubelet's `volumes.size_mib` and build the templates again"
            )
        await asyncio.to_thread(self._root.mkdir, mode=0o700, parents=True, exist_ok=True)
        await self._disks.create_volume(self._image(volume_id), size_mib=size_mib)

    def get(self, volume_id: VolumeId) -> Volume:
        """Raises VolumeNotFound."""
        if VOLUME_ID.fullmatch(volume_id):
            try:
                status = self._image(volume_id).stat()
            except FileNotFoundError:
                pass
            else:
                used_mib = math.ceil(status.st_blocks * _BLOCK_BYTES / _MIB)
                return Volume(volume_id, self._image(volume_id), status.st_size // _MIB, used_mib)
        raise VolumeNotFound(volume_id)

    def list(self) -> Sequence[Volume]:
        paths = sorted(self._root.glob(f"*{_SUFFIX}")) if self._root.is_dir() else ()
        return [self.get(VolumeId(path.name.removesuffix(_SUFFIX))) for path in paths]

    async def delete(self, volume_id: VolumeId) -> None:
        """Remove a volume that no machine has, with all that is on it. Absent ones are success."""
        if not VOLUME_ID.fullmatch(volume_id) or not self._root.is_dir():
            return
        await self._disks.delete(self._image(volume_id))
        with storage_errors(f"removal of volume {volume_id}"):
            await asyncio.to_thread(sync_directory, self._root)

    def _image(self, volume_id: VolumeId) -> Path:
        return self._root / f"{volume_id}{_SUFFIX}"
