"""OCI image layouts: from `index.json` through manifest and config to the blobs of the layers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from appliance.domain.errors import ImageRejected, StorageFailure
from appliance.storage.merge_job import LayerBlob
from appliance.storage.source import (
    JSON_MAX_BYTES,
    ImageSource,
    as_digest,
    as_object,
    as_objects,
    diff_ids,
    image_config,
    open_regular,
    parse_object,
)

_NAME_ANNOTATION = "org.opencontainers.image.ref.name"
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYER_TYPES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
)
_INDEX_DEPTH_MAX = 3


def open_layout(directory: Path, name: str | None, stack: ExitStack) -> ImageSource:
    """Open an image of the layout. Raises `ImageRejected`, or `StorageFailure` if there is no such image."""
    index = parse_object(_read_json(directory / "index.json"), "image index")
    descriptor = _choose(index, name, directory)
    manifest = _manifest(directory, descriptor)
    layers = as_objects(manifest.get("layers"), "layers of the manifest")
    config = parse_object(_read_blob(directory, as_object(manifest.get("config"), "config descriptor")), "image config")
    return ImageSource(
        manifest_digest=as_digest(descriptor.get("digest")),
        config=image_config(config),
        layers=tuple(
            _layer(directory, layer, diff_id, stack)
            for layer, diff_id in zip(layers, diff_ids(config, len(layers)), strict=True)
        ),
    )


def _choose(index: Mapping[str, Any], name: str | None, directory: Path) -> dict[str, Any]:
    """Return the descriptor of the one linux/amd64 image manifest that is meant, following nested indexes."""
    for depth in range(_INDEX_DEPTH_MAX):
        candidates = for_us(index)
        if depth == 0 and name is not None:
            candidates = [item for item in candidates if (item.get("annotations") or {}).get(_NAME_ANNOTATION) == name]
        if len(candidates) != 1:
            wanted = f"named '{name}' " if name else ""
            raise StorageFailure(f"{directory} has {len(candidates)} linux/amd64 images {wanted}where one is needed")
        if candidates[0].get("mediaType") not in INDEX_TYPES:
            return candidates[0]
        index = parse_object(_read_blob(directory, candidates[0]), "image index")
    raise ImageRejected("bad-index", "image indexes are nested too deep")


def for_us(index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the descriptors of the index that are, or may be, of linux/amd64 images."""
    return [item for item in as_objects(index.get("manifests"), "manifests") if _is_for_us(item)]


def _is_for_us(descriptor: Mapping[str, Any]) -> bool:
    platform = descriptor.get("platform")
    # A layout with one image often states no platform; attestations state `unknown/unknown`.
    return not isinstance(platform, dict) or (platform.get("os"), platform.get("architecture")) == ("linux", "amd64")


def _manifest(directory: Path, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    manifest = parse_object(_read_blob(directory, descriptor), "image manifest")
    media_type = manifest.get("mediaType", descriptor.get("mediaType"))
    if media_type not in _MANIFEST_TYPES:
        raise ImageRejected("media-type", f"{media_type!r} is not an image manifest")
    return manifest


def _layer(directory: Path, descriptor: Mapping[str, Any], diff_id: str, stack: ExitStack) -> LayerBlob:
    media_type = descriptor.get("mediaType")
    if media_type not in _LAYER_TYPES:
        raise ImageRejected("media-type", f"layers of type {media_type!r} cannot be used")
    digest = as_digest(descriptor.get("digest"))
    fd = open_regular(_blob_path(directory, digest), stack)
    size = os.fstat(fd).st_size
    if descriptor.get("size") != size:
        raise ImageRejected("size-mismatch", f"layer {digest} has {size} bytes, the manifest says otherwise")
    return LayerBlob(fd=fd, offset=0, size=size, diff_id=diff_id, digest=digest)


def _blob_path(directory: Path, digest: str) -> Path:
    algorithm, _, hexadecimal = digest.partition(":")
    return directory / "blobs" / algorithm / hexadecimal


def _read_blob(directory: Path, descriptor: Mapping[str, Any]) -> bytes:
    digest = as_digest(descriptor.get("digest"))
    content = _read_json(_blob_path(directory, digest))
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise ImageRejected("digest-mismatch", f"a blob is not {digest}")
    return content


def _read_json(path: Path) -> bytes:
    with ExitStack() as stack:
        content = os.pread(open_regular(path, stack), JSON_MAX_BYTES + 1, 0)
    if len(content) > JSON_MAX_BYTES:
        raise ImageRejected("bad-json", f"{path.name} has more than {JSON_MAX_BYTES} bytes")
    return content
