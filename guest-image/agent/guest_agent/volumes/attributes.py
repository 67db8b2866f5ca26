"""What E2B says of an entry, and what a request may want of a new one."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request

from guest_agent.envelope import JsonObject
from guest_agent.volumes.failures import invalid

_OWNER = 1000
"""The account `user` of E2B's images, so that a sandbox's own programs may change what is made from outside."""
_MOST_ID = 2**32 - 2
"""The one above means `leave it` to chown."""
_MOST_MODE = 0o7777

_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a new entry."""

    uid: int
    gid: int
    mode: int

    def give(self, descriptor: int) -> None:
        os.fchown(descriptor, self.uid, self.gid)
        # After the owner, whose change takes setuid away.
        os.fchmod(descriptor, self.mode)


def wanted_attributes(request: Request, *, mode: int) -> Attributes:
    """Return the attributes in a request's query; `mode` is the default one. Raises VolumeError."""
    query = request.query_params
    values = {name: _number(query[name]) for name in ("uid", "gid", "mode") if name in query}
    checked = checked_attributes(values)
    return Attributes(checked.get("uid", _OWNER), checked.get("gid", _OWNER), checked.get("mode", mode))


def checked_attributes(values: JsonObject) -> dict[str, int]:
    """Return those of uid, gid and mode that are given. Raises VolumeError where one cannot be."""
    checked: dict[str, int] = {}
    for name, most in (("uid", _MOST_ID), ("gid", _MOST_ID), ("mode", _MOST_MODE)):
        value = values.get(name)
        if value is None:
            continue
        if type(value) is not int or not 0 <= value <= most:
            raise invalid(f"invalid {name}: not a number from 0 to {most}")
        checked[name] = value
    return checked


def is_forced(request: Request) -> bool:
    return request.query_params.get("force", "").lower() in ("true", "1")


def describe(path: str, directory: int, name: str) -> JsonObject:
    """Return the VolumeEntryStat of `name` in a directory; a link is itself, not what it points to."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    entry: JsonObject = {
        "name": path.rpartition("/")[2] or "/",
        "type": _TYPES.get(stat.S_IFMT(status.st_mode), "unknown"),
        "path": path,
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "atime": _time(status.st_atime_ns),
        "mtime": _time(status.st_mtime_ns),
        "ctime": _time(status.st_ctime_ns),
    }
    if stat.S_ISLNK(status.st_mode):
        entry["target"] = os.readlink(name, dir_fd=directory)
    return entry


def _time(at_ns: int) -> str:
    seconds, rest_ns = divmod(at_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // 1000).isoformat()


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise invalid(f"not a number: {text[:32]!r}") from None
