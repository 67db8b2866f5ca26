"""Writes an image as an OCI image layout: a directory of blobs named by their hashes, and an index.

Layers are plain tar. Compressed ones would be smaller, but every build of zlib compresses differently, and the same
inputs must give the same digests.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from image_build.hashing import sha256_file

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_TAG = "org.opencontainers.image.ref.name"
_CREATED = "2024-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A tar file on disk, and its SHA-256: for plain tar also its `diff_id`."""

    path: Path
    sha256: str
    comment: str
    """What it holds, for `docker history`."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How a program of the image runs when nobody says otherwise."""

    env: Mapping[str, str]
    user: str
    """Of whom it starts in the home: there is no other working directory."""
    cmd: Sequence[str] = ()


def layer_file(path: Path, comment: str) -> LayerFile:
    return LayerFile(path, sha256_file(path), comment)


def write_layout(directory: Path, *, layers: Sequence[LayerFile], run: RunConfig, tag: str) -> str:
    """Write the layout and return the digest of its manifest. Layer files are linked, not copied."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    config = _add_json(blobs, image_config(layers, run))
    manifest = _add_json(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, **config},
            "layers": [{"mediaType": _LAYER, **_add_file(blobs, layer)} for layer in layers],
        },
    )
    descriptor = {"mediaType": _MANIFEST, **manifest, "annotations": {_TAG: tag}}
    _write_json(directory / "index.json", {"schemaVersion": 2, "manifests": [descriptor]})
    _write_json(directory / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    return str(manifest["digest"])


def image_config(layers: Sequence[LayerFile], run: RunConfig) -> dict[str, object]:
    command = {"Cmd": list(run.cmd)} if run.cmd else {}
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": _CREATED,
        "config": {
            "Env": [f"{name}={value}" for name, value in run.env.items()],
            "User": run.user,
            **command,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.sha256}" for layer in layers]},
        "history": [{"created": _CREATED, "created_by": layer.comment} for layer in layers],
    }


def _add_file(blobs: Path, layer: LayerFile) -> dict[str, object]:
    blob = blobs / layer.sha256
    if not blob.exists():
        os.link(layer.path, blob)
    return {"digest": f"sha256:{layer.sha256}", "size": blob.stat().st_size}


def _add_json(blobs: Path, content: Mapping[str, object]) -> dict[str, object]:
    data = _encode(content)
    sha256 = hashlib.sha256(data).hexdigest()
    (blobs / sha256).write_bytes(data)
    return {"digest": f"sha256:{sha256}", "size": len(data)}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_bytes(_encode(content))


def _encode(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
