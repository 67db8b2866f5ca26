"""Images from a registry, copied by skopeo into a temporary OCI layout."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from appliance.common.process import CommandFailed, run
from appliance.common.threads import in_thread
from appliance.domain.errors import DiskFull, ImageRejected, StorageFailure
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.base import ImageLimits
from appliance.storage.confinement import WORKER_UID, Ceiling, confined
from appliance.storage.oci import INDEX_TYPES, for_us
from appliance.storage.pull_network import PullNetwork, Reach, pull_network
from appliance.storage.reference import OciLayout, RegistryImage
from appliance.storage.source import JSON_MAX_BYTES, as_digest, as_object, as_objects, parse_object

_TEMPORARY_PREFIX = ".pull-"
"""Of directories that a Cubelet which was killed may leave: see `remove_leftovers`."""

_DEFAULT_HOST = "docker.io"
_LAYOUT_NAME = "image"
_DETAIL_MAX_LENGTH = 500
_FATAL = re.compile(r'level=fatal msg="(?P<message>(?:[^"\\]|\\.)*)"')

_ADDRESS_SPACE_BYTES = 4 * 2**30
"""Go reserves far more than it uses."""

_TASKS_MAX = 256


@asynccontextmanager
async def pulled(
    image: RegistryImage,
    directory: Path,
    *,
    login: RegistryLogin | None,
    insecure: frozenset[str],
    reach: Reach,
    limits: ImageLimits,
    room_bytes: int,
) -> AsyncIterator[OciLayout]:
    """Yield a layout with the linux/amd64 image, which is gone afterwards.

    The manifest comes first: an image that states more than the limits or the room on the disk is not downloaded.
    Raises `StorageFailure` with skopeo's own words, `ImageRejected`, `DiskFull`, or `DeadlineExceeded`.
    """
    temporary = Path(mkdtemp(prefix=_TEMPORARY_PREFIX, dir=directory))
    try:
        await in_thread(_furnish, temporary, _auth(image, login))
        async with pull_network(host_of(image), reach) as network:
            skopeo = _Skopeo(image, temporary, network, verify_tls=host_of(image) not in insecure, limits=limits)
            manifest = await skopeo.resolve()
            if manifest.blob_bytes > limits.unpacked_bytes:
                raise ImageRejected(
                    "unpacked-size", f"the layers have {manifest.blob_bytes} bytes even while compressed"
                )
            if manifest.blob_bytes > room_bytes:
                raise DiskFull("the node's disk has no room for the image")
            await skopeo.copy(manifest)
        yield OciLayout(temporary / "layout", _LAYOUT_NAME)
    finally:
        await in_thread(shutil.rmtree, temporary)


def remove_leftovers(directory: Path) -> None:
    """Remove what pulls of a former process left. Only before the first pull of this one."""
    for path in directory.glob(f"{_TEMPORARY_PREFIX}*"):
        shutil.rmtree(path)


def host_of(image: RegistryImage) -> str:
    """Return the registry's host and port: the first component if it looks like one, as Docker decides it."""
    first, slash, _ = image.name.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost"
    return first if slash and looks_like_host else _DEFAULT_HOST


def pinned(image: RegistryImage, digest: str) -> RegistryImage:
    """Return the image by digest. A tag beside a digest is dropped: skopeo takes one of them."""
    name = image.name.partition("@")[0]
    directory, slash, last = name.rpartition("/")
    return RegistryImage(f"{directory}{slash}{last.partition(':')[0]}@{digest}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the registry says it would send."""

    digest: str
    blob_bytes: int
    largest_blob_bytes: int


def inspect_argv(image: RegistryImage, temporary: Path, *, verify_tls: bool) -> list[str]:
    """Return skopeo's argv to print the manifest, or index, as the registry has it."""
    return [
        "skopeo",
        "inspect",
        "--raw",
        f"--authfile={temporary / 'auth.json'}",
        f"--tls-verify={str(verify_tls).lower()}",
        f"docker://{image.name}",
    ]


def copy_argv(image: RegistryImage, temporary: Path, *, verify_tls: bool) -> list[str]:
    """Return skopeo's argv to fetch the image. Blobs are kept as they are: their digests stay the publisher's."""
    return [
        "skopeo",
        "copy",
        "--preserve-digests",
        "--quiet",
        f"--src-authfile={temporary / 'auth.json'}",
        f"--src-tls-verify={str(verify_tls).lower()}",
        f"docker://{image.name}",
        f"oci:{temporary / 'layout'}:{_LAYOUT_NAME}",
    ]


class _Skopeo:
    """Runs skopeo for one image, without privileges: it parses what a registry answers."""

    def __init__(
        self, image: RegistryImage, temporary: Path, network: PullNetwork, *, verify_tls: bool, limits: ImageLimits
    ) -> None:
        self._image = pinned(image, image.name.partition("@")[2]) if "@" in image.name else image
        self._temporary = temporary
        self._network = network
        self._verify_tls = verify_tls
        self._limits = limits

    async def resolve(self) -> Manifest:
        """Ask for the manifest of the linux/amd64 image."""
        raw = await self._inspect(self._image)
        document = parse_object(raw, "image manifest")
        if document.get("mediaType") in INDEX_TYPES or "manifests" in document:
            candidates = for_us(document)
            if len(candidates) != 1:
                raise StorageFailure(
                    f"'{self._image.name}' has {len(candidates)} linux/amd64 images; name one by digest"
                )
            raw = await self._inspect(pinned(self._image, as_digest(candidates[0].get("digest"))))
            document = parse_object(raw, "image manifest")
        sizes = [_size(blob) for blob in as_objects(document.get("layers"), "layers of the manifest")]
        sizes.append(_size(as_object(document.get("config"), "config descriptor")))
        return Manifest(f"sha256:{hashlib.sha256(raw).hexdigest()}", sum(sizes), max(sizes))

    async def copy(self, manifest: Manifest) -> None:
        # No file may become larger than the manifest says that any is, whatever the registry sends.
        file_bytes = max(manifest.largest_blob_bytes, JSON_MAX_BYTES)
        image = pinned(self._image, manifest.digest)
        await self._run(copy_argv(image, self._temporary, verify_tls=self._verify_tls), file_bytes)

    async def _inspect(self, image: RegistryImage) -> bytes:
        return await self._run(inspect_argv(image, self._temporary, verify_tls=self._verify_tls), JSON_MAX_BYTES)

    async def _run(self, argv: Sequence[str], file_bytes: int) -> bytes:
        cpu_s = max(1, int(self._limits.duration.total_seconds()))
        ceiling = Ceiling(_ADDRESS_SPACE_BYTES, cpu_s, file_bytes, _TASKS_MAX)
        try:
            completed = await run(
                [*self._network.entered_by, *confined(argv, ceiling)],
                deadline=self._limits.duration,
                max_output_bytes=JSON_MAX_BYTES,
                env={**_environment(self._temporary), **self._network.environment},
            )
        except CommandFailed as error:
            raise self._network.rejection() or _translated(self._image, error) from error
        return completed.stdout


def _furnish(temporary: Path, auth: str) -> None:
    (temporary / "layout").mkdir()
    # Always a file of our own: skopeo would look for the node's credentials otherwise.
    authfile = temporary / "auth.json"
    authfile.touch(mode=0o600)
    authfile.write_text(auth)
    if os.geteuid() == 0:
        for path in (temporary, temporary / "layout", authfile):
            os.chown(path, WORKER_UID, WORKER_UID)


def _size(descriptor: dict[str, object]) -> int:
    size = descriptor.get("size")
    if not isinstance(size, int) or size < 0:
        raise ImageRejected("bad-json", "the manifest states no size of a blob")
    return size


def _auth(image: RegistryImage, login: RegistryLogin | None) -> str:
    if login is None:
        return json.dumps({"auths": {}})
    secret = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return json.dumps({"auths": {host_of(image): {"auth": secret}}})


def _environment(temporary: Path) -> dict[str, str]:
    # HOME and TMPDIR keep it from reading anybody's configuration and from writing anywhere else.
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "XDG_RUNTIME_DIR": str(temporary),
    }


def _translated(image: RegistryImage, error: CommandFailed) -> StorageFailure:
    if b"no space left on device" in error.stderr:
        return DiskFull("the node's disk has no room for the image")
    said = error.stderr.decode(errors="replace")
    fatal = _FATAL.search(said)
    detail = fatal["message"].replace('\\"', '"') if fatal is not None else str(error)
    return StorageFailure(f"cannot pull '{image.name}': {detail[:_DETAIL_MAX_LENGTH]}")
