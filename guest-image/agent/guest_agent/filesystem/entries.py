"""What the protocol says about one file: EntryInfo."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from guest_agent.envelope import JsonObject
from guest_agent.filesystem.metadata import read_metadata
from guest_agent.users import UserDatabase


class FileType(StrEnum):
    UNSPECIFIED = "FILE_TYPE_UNSPECIFIED"
    """Devices, sockets, pipes, and links that lead nowhere; the SDKs leave them out of listings."""
    FILE = "FILE_TYPE_FILE"
    DIRECTORY = "FILE_TYPE_DIRECTORY"
    SYMLINK = "FILE_TYPE_SYMLINK"


@dataclass(frozen=True, slots=True)
class Entry:
    """Type and mode are those of what a link leads to; permissions and size are the link's own."""

    path: str
    type: FileType
    size: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_ns: int
    symlink_target: str | None
    metadata: Mapping[str, str]

    def encode(self) -> JsonObject:
        message: JsonObject = {
            "name": self.path.rpartition("/")[2] or "/",
            "type": self.type.value,
            "path": self.path,
            "size": str(self.size),
            "mode": self.mode,
            "permissions": self.permissions,
            "owner": self.owner,
            "group": self.group,
            "modifiedTime": timestamp(self.modified_ns),
        }
        if self.symlink_target is not None:
            message["symlinkTarget"] = self.symlink_target
            message["isSymlink"] = True
        if self.metadata:
            message["metadata"] = dict(self.metadata)
        return message


def timestamp(nanoseconds: int) -> str:
    """Return a protobuf Timestamp in JSON: RFC 3339 in UTC with nine digits of a second."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def describe(path: str, users: UserDatabase) -> Entry:
    """Return the entry of `path`, which is absolute. Raise OSError, with ELOOP for a link that leads to itself."""
    own = os.lstat(path)
    target: str | None = None
    shown: os.stat_result | None = own
    if stat.S_ISLNK(own.st_mode):
        target, shown = _follow(path)
    return Entry(
        path=path,
        type=_file_type(shown.st_mode) if shown is not None else FileType.UNSPECIFIED,
        size=own.st_size,
        mode=stat.S_IMODE((shown or own).st_mode) & 0o777,
        permissions=permissions(own.st_mode),
        owner=users.user_name(own.st_uid),
        group=users.group_name(own.st_gid),
        modified_ns=own.st_mtime_ns,
        symlink_target=target,
        metadata=read_metadata(path) if shown is not None and stat.S_ISREG(shown.st_mode) else {},
    )


def _follow(link: str) -> tuple[str, os.stat_result | None]:
    try:
        target = os.path.realpath(link, strict=True)
        return target, os.stat(target)  # noqa: PTH116 - hot path of listings
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
        return link, None


def _file_type(mode: int) -> FileType:
    if stat.S_ISREG(mode):
        return FileType.FILE
    if stat.S_ISDIR(mode):
        return FileType.DIRECTORY
    return FileType.UNSPECIFIED


def permissions(mode: int) -> str:
    """Return the mode as Go prints it: letters of the special bits, or `-`, then rwx three times."""
    special = "".join(letter for letter, is_set in _special_bits(mode) if is_set)
    bits = "".join(letter if mode & (0o400 >> i) else "-" for i, letter in enumerate("rwxrwxrwx"))
    return (special or "-") + bits


def _special_bits(mode: int) -> tuple[tuple[str, bool], ...]:
    return (
        ("d", stat.S_ISDIR(mode)),
        ("L", stat.S_ISLNK(mode)),
        ("D", stat.S_ISBLK(mode) or stat.S_ISCHR(mode)),
        ("p", stat.S_ISFIFO(mode)),
        ("S", stat.S_ISSOCK(mode)),
        ("u", bool(mode & stat.S_ISUID)),
        ("g", bool(mode & stat.S_ISGID)),
        ("c", stat.S_ISCHR(mode)),
        ("t", bool(mode & stat.S_ISVTX)),
    )
