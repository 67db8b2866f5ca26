"""An image opened for reading: its config, and where in open files its layers are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.domain.errors import ImageRejected, StorageFailure
from appliance.storage.base import ImageConfig
from appliance.storage.merge_job import LayerBlob

LAYERS_MAX = 512
"""Far above what builders allow (Docker: 127), far below what descriptors and memory allow."""

JSON_MAX_BYTES = 4 * 2**20
"""What the OCI distribution specification lets a registry refuse a manifest above."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The layers' descriptors belong to the `ExitStack` that the opener was given."""

    manifest_digest: str
    config: ImageConfig
    layers: tuple[LayerBlob, ...]
    """Lowest first."""


def open_regular(path: Path, stack: ExitStack) -> int:
    """Open a file of an image for reading. Links are not followed: a layout must not lead to other files."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StorageFailure(f"cannot open {path}: {error.strerror}") from error
    stack.callback(os.close, fd)
    if not os.path.isfile(fd):  # noqa: PTH113 - of a descriptor
        raise ImageRejected("not-a-file", f"{path.name} is not a regular file")
    return fd


def parse_json(text: bytes, what: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageRejected("bad-json", f"the {what} is not JSON") from error


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    return as_object(parse_json(text, what), what)


def as_object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImageRejected("bad-json", f"the {what} is not an object")
    return value


def as_objects(value: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ImageRejected("bad-json", f"the {what} are not a list")
    return [as_object(item, what) for item in value]


def diff_ids(config: Mapping[str, Any], layer_count: int) -> tuple[str, ...]:
    """Return the digests of the uncompressed layers, which every image config states."""
    found = as_object(config.get("rootfs"), "rootfs of the config").get("diff_ids")
    if not isinstance(found, list) or len(found) != layer_count:
        raise ImageRejected("bad-config", "the config does not name each layer")
    if layer_count == 0 or layer_count > LAYERS_MAX:
        raise ImageRejected("layer-count", f"the image has {layer_count} layers; 1 to {LAYERS_MAX} are possible")
    return tuple(as_digest(item) for item in found)


def as_digest(value: object) -> str:
    """Return `value` if it is a SHA-256 digest; it becomes a file name, so nothing else may pass."""
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise ImageRejected("bad-digest", f"{str(value)[:80]!r} is not a sha256 digest")
    return value


def image_config(config: Mapping[str, Any]) -> ImageConfig:
    """Return the parts of the OCI image config that a sandbox uses. Raises `ImageRejected` on another platform."""
    platform = (config.get("os", "linux"), config.get("architecture", "amd64"))
    if platform != ("linux", "amd64"):
        raise ImageRejected("platform", f"the image is for {platform[0]}/{platform[1]}, not linux/amd64")
    process = as_object(config.get("config") or {}, "process config")
    return ImageConfig(
        entrypoint=_strings(process.get("Entrypoint"), "Entrypoint"),
        cmd=_strings(process.get("Cmd"), "Cmd"),
        env=_strings(process.get("Env"), "Env"),
        working_dir=_string(process.get("WorkingDir"), "WorkingDir"),
        user=_string(process.get("User"), "User"),
    )


def _string(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageRejected("bad-config", f"{what} is not a string")
    return value


def _strings(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
        raise ImageRejected("bad-config", f"{what} is not a list of strings")
    return tuple(_string(item, what) for item in value)
