"""Storage that keeps the promises of `base.py` without images, squashfs or ext4: for tests of what stands on it.

Layers and disks are real, small files, as those who use them look at names, sizes and presence.
"""

# ruff: noqa: ASYNC240 - the files are tiny and belong to a test.
from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.domain.errors import DiskFull, ImageRejected, InvalidRequest, StorageFailure
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.base import (
    ImageConfig,
    ImageLimits,
    ImportedImage,
    Layer,
    Progress,
)
from appliance.storage.reference import parse_reference
from appliance.storage.volume_image import VOLUME_MIN_MIB


@dataclass(slots=True)
class FakeImageStore:
    """An `ImageStore` of images that a test has described by `add`."""

    directory: Path
    full: bool = False
    """The node's disk has no room from now on."""
    _images: dict[str, tuple[bytes, ImageConfig, str | None]] = field(default_factory=dict)

    def add(
        self,
        reference: str,
        *,
        content: bytes = b"layer",
        config: ImageConfig = ImageConfig(),  # noqa: B008 - frozen
        breaks_rule: str | None = None,
    ) -> None:
        """Make `reference` an image. Equal content is the same layer."""
        self._images[reference] = (content, config, breaks_rule)

    async def import_image(
        self,
        reference: str,
        *,
        login: RegistryLogin | None = None,
        limits: ImageLimits = ImageLimits(),  # noqa: B008 - frozen
        progress: Progress = lambda _: None,
    ) -> ImportedImage:
        parse_reference(reference)
        if reference not in self._images:
            raise StorageFailure(f"there is no image '{reference}'")
        content, config, rule = self._images[reference]
        progress(f"Merging '{reference}'")
        if rule is not None:
            raise ImageRejected(rule, "as the test wished")
        if len(content) > limits.unpacked_bytes:
            raise ImageRejected("unpacked-size", f"the layers unpack to more than {limits.unpacked_bytes} bytes")
        if self.full:
            raise DiskFull("the node's disk has no room for the layers of the image")
        layer = self._layer(content)
        progress(f"Made layer {layer.digest[:19]}")
        return ImportedImage((layer,), config, _digest(reference.encode() + content))

    async def delete_layer(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    async def layers(self) -> tuple[Layer, ...]:
        return tuple(
            Layer(f"sha256:{path.stem}", path, path.stat().st_size)
            for path in sorted(self.directory.glob("*.squashfs"))
        )

    def _layer(self, content: bytes) -> Layer:
        digest = _digest(content)
        path = self._path(digest)
        self.directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return Layer(digest, path, len(content))

    def _path(self, digest: str) -> Path:
        return self.directory / f"{digest.removeprefix('sha256:')}.squashfs"


@dataclass(slots=True)
class FakeDiskStore:
    """A `DiskStore` whose disks are files of holes."""

    full: bool = False

    async def create_upper(self, path: Path, *, size_mib: int) -> None:
        if size_mib < 1:
            raise InvalidRequest(f"a disk cannot have {size_mib} MiB")
        with self._new(path) as file:
            file.truncate(size_mib * 2**20)

    async def create_volume(self, path: Path, *, size_mib: int) -> None:
        if size_mib < VOLUME_MIN_MIB:
            raise InvalidRequest(f"a volume cannot have {size_mib} MiB")
        with self._new(path) as file:
            file.truncate(size_mib * 2**20)

    async def clone_upper(self, source: Path, path: Path) -> None:
        if not source.exists():
            raise StorageFailure(f"copy of disk {source.name}: it does not exist")
        self._new(path).close()
        shutil.copyfile(source, path)

    async def grow_upper(self, path: Path, *, size_mib: int) -> None:
        if not path.exists():
            raise StorageFailure(f"growth of disk {path.name}: it does not exist")
        if path.stat().st_size > size_mib * 2**20:
            raise InvalidRequest(f"a disk cannot become smaller, {size_mib} MiB")
        os.truncate(path, size_mib * 2**20)

    async def sync_upper(self, path: Path) -> None:
        if not path.exists():
            raise StorageFailure(f"sync of disk {path.name}: it does not exist")

    async def delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _new(self, path: Path) -> BinaryIO:
        if self.full:
            raise DiskFull(f"disk {path.name}: the node's disk is full")
        try:
            return path.open("xb")
        except OSError as error:
            raise StorageFailure(f"disk {path.name}: {error.strerror}") from error


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
