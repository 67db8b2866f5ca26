"""Small images made on the spot: OCI layouts and docker archives from entries written down in a test."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard


@dataclass(frozen=True)
class E:
    """One tar entry. `kind` is the letter of `find -type`, plus `h` for a hard link."""

    name: str
    kind: str = "f"
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    link: str = ""
    pax: Mapping[str, str] = field(default_factory=dict)


_TYPES = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "c": tarfile.CHRTYPE,
    "b": tarfile.BLKTYPE,
    "p": tarfile.FIFOTYPE,
}


def tar_bytes(entries: Iterable[E], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of the entries, written by Python's own tarfile: another author than our reader's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format, encoding="utf-8", errors="surrogateescape") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type = _TYPES[entry.kind]
            info.size = len(entry.data)
            info.mode = 0o755 if entry.kind == "d" and entry.mode == 0o644 else entry.mode
            info.uid = info.gid = entry.uid
            info.linkname = entry.link
            info.mtime = 1_700_000_000
            info.pax_headers = dict(entry.pax)
            tar.addfile(info, io.BytesIO(entry.data))
    return buffer.getvalue()


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "+gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "+zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_layout(
    directory: Path,
    layers: Sequence[bytes],
    *,
    compression: str = "+gzip",
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    stored: Sequence[bytes] | None = None,
    overrides: Mapping[str, Any] | None = None,
    nested: bool = False,
) -> str:
    """Write an OCI layout of uncompressed `layers` and return its manifest's digest.

    `stored` gives the blobs as they are where they are not just `layers` compressed; `overrides` replaces fields of
    the image config; `nested` puts the manifest into an index of two platforms.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> str:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return digest(data)

    def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": put(data), "size": len(data)}

    packed = list(stored) if stored is not None else [_COMPRESS[compression](layer) for layer in layers]
    image_config = {
        "os": "linux",
        "architecture": "amd64",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **(overrides or {}),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", json.dumps(image_config).encode()),
        "layers": [descriptor(f"application/vnd.oci.image.layer.v1.tar{compression}", blob) for blob in packed],
    }
    entry = descriptor("application/vnd.oci.image.manifest.v1+json", json.dumps(manifest).encode())
    manifest_digest = str(entry["digest"])
    if name is not None:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    if nested:
        other = {**entry, "digest": digest(b"another platform"), "platform": {"os": "linux", "architecture": "arm64"}}
        ours = {**entry, "platform": {"os": "linux", "architecture": "amd64"}}
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [other, ours]}
        entry = descriptor("application/vnd.oci.image.index.v1+json", json.dumps(index).encode())
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return manifest_digest


def write_docker_archive(file: Path, layers: Sequence[bytes], *, name: str = "demo:latest") -> None:
    """Write what `docker save` of a version before 25 writes; a layer that appears twice is a link the second time."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Cmd": ["/bin/demo"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    ).encode()
    entries: list[E] = []
    first: dict[bytes, str] = {}
    names = []
    for number, layer in enumerate(layers):
        directory = f"{number:064x}"
        names.append(f"{directory}/layer.tar")
        entries.append(E(directory, "d"))
        if layer in first:
            entries.append(E(names[-1], "l", link=f"../{first[layer]}"))
        else:
            entries.append(E(names[-1], data=layer))
            first[layer] = names[-1]
    entries.append(E("config.json", data=config))
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    entries.append(E("manifest.json", data=json.dumps(manifest).encode()))
    file.write_bytes(tar_bytes(entries))
