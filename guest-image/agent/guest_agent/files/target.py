"""The file an upload goes into."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from guest_agent.envelope import JsonObject
from guest_agent.errors import HttpError
from guest_agent.filesystem.metadata import replace_metadata
from guest_agent.filesystem.ownership import make_directories
from guest_agent.users import User


class Target:
    """Writes in place: create or truncate, change owner, one pass of writes.

    Watchers of the directory must see exactly create, chmod and write, so there is no temporary file and no rename.
    """

    def __init__(self, path: str, owner: User, metadata: Mapping[str, str]) -> None:
        """Open the file and make its parents, or raise HttpError."""
        self.path = path
        self._metadata = metadata
        try:
            make_directories(path.rpartition("/")[0] or "/", owner)
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise _translated(error, path) from error
        except ValueError as error:
            raise HttpError(400, f"invalid path: {error}") from error
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise HttpError(400, f"path is not a regular file: {path}")
            os.fchown(self._descriptor, owner.uid, owner.gid)
            replace_metadata(self._descriptor, metadata)
        except OSError as error:
            os.close(self._descriptor)
            raise _translated(error, path) from error
        except HttpError:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise _translated(error, self.path) from error

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def describe(self) -> JsonObject:
        """Return what the upload's answer says of this file."""
        description: JsonObject = {"path": self.path, "name": self.path.rpartition("/")[2], "type": "file"}
        if self._metadata:
            description["metadata"] = dict(self._metadata)
        return description


def _translated(error: OSError, path: str) -> HttpError:
    if error.errno == errno.ENOSPC:
        return HttpError(507, "not enough disk space available")
    if error.errno == errno.EISDIR:
        return HttpError(400, f"path is a directory: {path}")
    if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EINVAL):
        return HttpError(400, f"{error.strerror}: {path}")
    return HttpError(500, f"error writing file '{path}': {error.strerror}")
