"""Archives that `docker save` writes: layers are read where they lie inside the archive, nothing is extracted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.domain.errors import ImageRejected, StorageFailure
from appliance.storage.merge_job import LayerBlob
from appliance.storage.source import (
    JSON_MAX_BYTES,
    ImageSource,
    as_objects,
    diff_ids,
    image_config,
    open_regular,
    parse_json,
    parse_object,
)
from appliance.storage.tar import Kind, TarReader

_MEMBERS_MAX = 10_000
"""Four members a layer, and a few more."""


@dataclass(frozen=True, slots=True)
class _File:
    """Where a member's content lies in the archive; or, of a symbolic link, the name it stands for."""

    offset: int
    size: int
    link_target: str | None


def open_archive(path: Path, name: str | None, stack: ExitStack) -> ImageSource:
    """Open an image of the archive. Raises `ImageRejected`, or `StorageFailure` if there is no such image."""
    fd = open_regular(path, stack)
    files = _files(fd)
    image = _choose(parse_json(_content(fd, files, "manifest.json"), "manifest.json"), name, path)
    config_name = image.get("Config")
    layer_names = image.get("Layers")
    if not isinstance(config_name, str) or not isinstance(layer_names, list):
        raise ImageRejected("bad-json", "manifest.json names no config or no layers")
    config_bytes = _content(fd, files, config_name)
    config = parse_object(config_bytes, "image config")
    return ImageSource(
        # There is no OCI manifest; the config is what Docker calls the image's id, and pins its layers as well.
        manifest_digest=f"sha256:{hashlib.sha256(config_bytes).hexdigest()}",
        config=image_config(config),
        layers=tuple(
            _layer(fd, _file(files, str(layer)), diff_id)
            for layer, diff_id in zip(layer_names, diff_ids(config, len(layer_names)), strict=True)
        ),
    )


def _files(fd: int) -> dict[str, _File]:
    """Index the archive, seeking over its contents."""
    files: dict[str, _File] = {}
    size = os.fstat(fd).st_size
    with open(fd, "rb", closefd=False) as stream:
        stream.seek(0)
        reader = TarReader(stream, max_bytes=size)
        for count, member in enumerate(reader):
            if count > _MEMBERS_MAX:
                raise ImageRejected("entries", f"the archive has more than {_MEMBERS_MAX} members")
            name = os.path.normpath(member.name.decode(errors="surrogateescape"))
            if member.kind is Kind.SYMBOLIC_LINK:
                # Older versions store a layer once and link to it from the directories of other layers.
                target = member.link_target.decode(errors="surrogateescape")
                files[name] = _File(0, 0, os.path.normpath(os.path.join(os.path.dirname(name), target)))  # noqa: PTH118, PTH120 - names, not files
            elif member.kind is Kind.FILE:
                files[name] = _File(stream.tell(), member.size, None)
                reader.skip_content()
    return files


def _choose(images: object, name: str | None, path: Path) -> Mapping[str, Any]:
    candidates = as_objects(images, "images of manifest.json")
    if name is not None:
        candidates = [image for image in candidates if name in (image.get("RepoTags") or ())]
    if len(candidates) != 1:
        wanted = f"named '{name}' " if name else ""
        raise StorageFailure(f"{path} has {len(candidates)} images {wanted}where one is needed")
    return candidates[0]


def _layer(fd: int, file: _File, diff_id: str) -> LayerBlob:
    return LayerBlob(fd=fd, offset=file.offset, size=file.size, diff_id=diff_id, digest=None)


def _file(files: Mapping[str, _File], name: str) -> _File:
    found = files.get(os.path.normpath(name))
    if found is not None and found.link_target is not None:
        found = files.get(found.link_target)
    if found is None or found.link_target is not None:
        raise ImageRejected("missing-file", f"the archive has no file '{name}'")
    return found


def _content(fd: int, files: Mapping[str, _File], name: str) -> bytes:
    file = _file(files, name)
    if file.size > JSON_MAX_BYTES:
        raise ImageRejected("bad-json", f"'{name}' has more than {JSON_MAX_BYTES} bytes")
    return os.pread(fd, file.size, file.offset)
