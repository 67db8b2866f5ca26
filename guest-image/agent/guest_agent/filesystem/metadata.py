"""A client's own key-value pairs on a file, kept as extended attributes `user.e2b.<key>`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from guest_agent.errors import HttpError

_PREFIX = "user.e2b."
_HEADER_PREFIX = "x-metadata-"
_MAX_KEY_BYTES = 246
"""Linux allows 255 bytes for the whole name."""
_MAX_TOTAL_BYTES = 4096
"""ext4 keeps all attributes of a file in one block."""


def metadata_from_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the pairs of X-Metadata-<key> headers, whose names are lower case. Raise HttpError 400."""
    metadata = {name[len(_HEADER_PREFIX) :]: value for name, value in headers if name.startswith(_HEADER_PREFIX)}
    for key, value in metadata.items():
        if not key or len(key) > _MAX_KEY_BYTES:
            raise HttpError(400, f"invalid metadata key '{key}': must have 1 to {_MAX_KEY_BYTES} characters")
        if not (value.isascii() and value.isprintable()):
            raise HttpError(400, f"invalid metadata value of '{key}': must be printable ASCII")
    if sum(len(key) + len(value) for key, value in metadata.items()) > _MAX_TOTAL_BYTES:
        raise HttpError(400, f"metadata is larger than {_MAX_TOTAL_BYTES} bytes in total")
    return metadata


def read_metadata(file: str | int) -> dict[str, str]:
    """Return the pairs of a path or descriptor; none where the file system has no attributes."""
    try:
        names = [name for name in os.listxattr(file) if name.startswith(_PREFIX)]
        return {name[len(_PREFIX) :]: os.getxattr(file, name).decode("utf-8", "replace") for name in names}
    except OSError:
        return {}


def replace_metadata(descriptor: int, metadata: Mapping[str, str]) -> None:
    """Make `metadata` the file's only pairs. Raise OSError where it cannot be stored."""
    for key in read_metadata(descriptor).keys() - metadata.keys():
        os.removexattr(descriptor, _PREFIX + key)
    for key, value in metadata.items():
        os.setxattr(descriptor, _PREFIX + key, value.encode("ascii"))
