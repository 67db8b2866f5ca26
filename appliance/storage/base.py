"""The seam to the node's disk: images become layers, templates get writable disks, clones get copies of them.

Everything a tenant made stays a stream or a file of bytes here: the host neither mounts nor unpacks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from appliance.domain.registry_login import RegistryLogin


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Caps on what an image may cost the node. Each breach is an `ImageRejected` that names the rule."""

    unpacked_bytes: int = 20 * 2**30
    entries: int = 2_000_000
    compression_ratio: int = 200
    path_bytes: int = 4096
    duration: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an OCI image config that a sandbox uses."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """`NAME=value` strings."""
    working_dir: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """A read-only squashfs file, named by the SHA-256 of its content, shared by every template that uses it."""

    digest: str
    """`sha256:<64 hex>`."""
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImportedImage:
    layers: tuple[Layer, ...]
    """Lowest first."""
    config: ImageConfig
    source_digest: str
    """Digest of the image manifest, `sha256:<64 hex>`."""


Progress = Callable[[str], None]
"""Called with one short sentence for each thing done, for the build's log."""


class ImageStore(Protocol):
    """Turns images into layers. Raises `ImageRejected`, `DiskFull`, `StorageFailure` or `DeadlineExceeded`."""

    async def import_image(
        self,
        reference: str,
        *,
        login: RegistryLogin | None = None,
        limits: ImageLimits = ImageLimits(),
        progress: Progress = lambda _: None,
    ) -> ImportedImage:
        """Return the layers of `oci:<dir>[:tag]`, `docker-archive:<file>[:ref]` or a registry reference.

        The same image gives the same digests. A failed import leaves no file behind.
        """
        ...

    async def delete_layer(self, digest: str) -> None:
        """Remove a layer that no template uses any more. Absent layers are success."""
        ...

    async def layers(self) -> tuple[Layer, ...]:
        """Return every layer on this node, for the leak ledger."""
        ...


class DiskStore(Protocol):
    """Makes writable disks: sparse files with an empty ext4, and copies of them that cost only their used blocks."""

    async def create_upper(self, path: Path, *, size_mib: int) -> None:
        """Make an empty ext4 disk of any size at `path`, which must not exist; from a pre-made one of the size.

        The disk has the directories `upper` and `work`.
        """
        ...

    async def create_volume(self, path: Path, *, size_mib: int) -> None:
        """Make an empty, journalled ext4 disk at `path`, which must not exist. It is durable, and whole or not there.

        All of it belongs to user 1000, and everybody may write in its root.
        """
        ...

    async def clone_upper(self, source: Path, path: Path) -> None:
        """Copy a disk that nobody writes: by reflink, else extent by extent. A failure leaves no file."""
        ...

    async def grow_upper(self, path: Path, *, size_mib: int) -> None:
        """Make a disk that nobody uses larger. What is in it stays; a guest's file system grows when it boots from it.

        InvalidRequest where that would make it smaller.
        """
        ...

    async def sync_upper(self, path: Path) -> None:
        """Make a disk that nobody writes survive a power cut, its name included, as what is kept of a pause must.

        A running machine's disk is not durable: its sandbox does not outlive the host.
        """
        ...

    async def delete(self, path: Path) -> None:
        """Remove a disk. Absent disks are success."""
        ...
