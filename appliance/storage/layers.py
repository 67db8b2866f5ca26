"""The node's layers: squashfs files named by the SHA-256 of their content, made from images."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from contextlib import ExitStack, suppress
from pathlib import Path

from appliance.common.threads import in_thread
from appliance.common.trees import sync_directory
from appliance.domain.errors import ImageRejected
from appliance.domain.registry_login import RegistryLogin
from appliance.storage import docker_archive, oci, registry
from appliance.storage.base import (
    ImageLimits,
    ImportedImage,
    Layer,
    Progress,
)
from appliance.storage.confinement import WORKER_UID
from appliance.storage.ecr import EcrApi, exchanged
from appliance.storage.merge_job import MergeJob
from appliance.storage.publish import name_file, storage_errors, unnamed_file
from appliance.storage.pull_network import Reach
from appliance.storage.reference import DockerArchive, OciLayout, RegistryImage, parse_reference
from appliance.storage.source import ImageSource
from appliance.storage.squash import squash

_SUFFIX = ".squashfs"
_FILE_NAME = re.compile(r"(?P<hex>[0-9a-f]{64})\.squashfs")
_DIGEST = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})")

_RESERVE_FRACTION = 0.05
"""Of the filesystem, left free whatever an image asks for: sandboxes write to the same disk."""


class LocalImageStore:
    """An `ImageStore` in a directory of this node. Files in it are complete, and synced before they have a name.

    Every directory above must be searchable for all (mode 0711), as pulls and VMMs run without privileges.

    All layers of an image become one: a guest has few virtio slots, and overlayfs looks through every layer it has.
    """

    def __init__(
        self,
        directory: Path,
        *,
        insecure_registries: frozenset[str] = frozenset(),
        reach: Reach = Reach(),  # noqa: B008 - frozen
        ecr: EcrApi = EcrApi(),  # noqa: B008 - frozen
    ) -> None:
        self._directory = directory
        self._insecure_registries = insecure_registries
        self._reach = reach
        self._ecr = ecr
        # Its workers share a user, and an image must not reach the workers of another.
        self._one_at_a_time = asyncio.Lock()
        self._swept = False

    async def import_image(
        self,
        reference: str,
        *,
        login: RegistryLogin | None = None,
        limits: ImageLimits = ImageLimits(),  # noqa: B008 - frozen
        progress: Progress = lambda _: None,
    ) -> ImportedImage:
        parsed = parse_reference(reference)
        async with self._one_at_a_time:
            with storage_errors("import of an image"):
                self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
                if isinstance(parsed, RegistryImage):
                    await self._sweep_once()
                    if login is not None and login.aws_region is not None:
                        progress(f"Asking AWS for a login at its registry in {login.aws_region}")
                        login = await exchanged(login, login.aws_region, reach=self._reach, api=self._ecr)
                    progress(f"Pulling {parsed.name}")
                    async with registry.pulled(
                        parsed,
                        self._directory,
                        login=login,
                        insecure=self._insecure_registries,
                        reach=self._reach,
                        limits=limits,
                        room_bytes=self._room_bytes(),
                    ) as layout:
                        return await self._import(layout, limits, progress)
                return await self._import(parsed, limits, progress)

    async def delete_layer(self, digest: str) -> None:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            return
        with storage_errors(f"removal of layer {digest}"):
            (self._directory / f"{match['hex']}{_SUFFIX}").unlink(missing_ok=True)

    async def layers(self) -> tuple[Layer, ...]:
        with storage_errors("list of layers"):
            return await in_thread(self._list)

    def _list(self) -> tuple[Layer, ...]:
        if not self._directory.is_dir():
            return ()
        found = ((entry, _FILE_NAME.fullmatch(entry.name)) for entry in os.scandir(self._directory))
        layers = (
            Layer(f"sha256:{match['hex']}", Path(entry.path), entry.stat().st_size)
            for entry, match in found
            if match is not None
        )
        return tuple(sorted(layers, key=lambda layer: layer.digest))

    async def _import(
        self, reference: OciLayout | DockerArchive, limits: ImageLimits, progress: Progress
    ) -> ImportedImage:
        with ExitStack() as stack:
            source = await in_thread(_open, reference, stack)
            packed_mib = sum(layer.size for layer in source.layers) / 2**20
            progress(f"Merging {len(source.layers)} layers of {packed_mib:.1f} MiB")
            output = stack.enter_context(unnamed_file(self._directory))
            if os.geteuid() == 0:
                os.fchown(output, WORKER_UID, WORKER_UID)
            report = await squash(
                _job(source, limits),
                output,
                room_bytes=self._room_bytes(),
                duration=limits.duration,
            )
            layer = self._publish(output, await in_thread(_seal, output))
            progress(
                f"Made layer {layer.digest[:19]} of {layer.size_bytes / 2**20:.1f} MiB from {report.entries} entries"
            )
            return ImportedImage((layer,), source.config, source.manifest_digest)

    async def _sweep_once(self) -> None:
        if not self._swept:
            self._swept = True
            await in_thread(registry.remove_leftovers, self._directory)

    def _room_bytes(self) -> int:
        filesystem = os.statvfs(self._directory)
        reserve = int(filesystem.f_blocks * filesystem.f_frsize * _RESERVE_FRACTION)
        return max(0, filesystem.f_bavail * filesystem.f_frsize - reserve)

    def _publish(self, fd: int, hexadecimal: str) -> Layer:
        """Name a sealed file. An equal layer that is there already is as good.

        Not in a thread: a cancelled import then either has named its layer and returns it, or has left nothing.
        """
        path = self._directory / f"{hexadecimal}{_SUFFIX}"
        with suppress(FileExistsError):
            name_file(fd, path)
        sync_directory(self._directory)
        return Layer(f"sha256:{hexadecimal}", path, os.fstat(fd).st_size)


def _seal(fd: int) -> str:
    """Make a finished file ours, read-only and durable, and return its SHA-256 in hex."""
    os.fchown(fd, os.geteuid(), os.getegid())
    os.fchmod(fd, 0o444)
    os.fsync(fd)
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(reference: OciLayout | DockerArchive, stack: ExitStack) -> ImageSource:
    match reference:
        case OciLayout(directory, name):
            return oci.open_layout(directory, name, stack)
        case DockerArchive(file, name):
            return docker_archive.open_archive(file, name, stack)


def _job(source: ImageSource, limits: ImageLimits) -> MergeJob:
    packed_bytes = sum(layer.size for layer in source.layers)
    if packed_bytes > limits.unpacked_bytes:
        raise ImageRejected("unpacked-size", f"the layers have {packed_bytes} bytes even while compressed")
    return MergeJob(
        layers=source.layers,
        unpacked_bytes=limits.unpacked_bytes,
        entries=limits.entries,
        compression_ratio=limits.compression_ratio,
        path_bytes=limits.path_bytes,
    )
