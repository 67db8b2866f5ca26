"""The image's accounts, read from its /etc/passwd and /etc/group.

The C library's lookups are not used: they follow the image's nsswitch.conf and would load its NSS modules into the
agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class User:
    """An account a process can run as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups, the primary one included."""
    home: str


ROOT = User(name="root", uid=0, gid=0, groups=(0,), home="/")
"""Stands in where an image has no account files at all."""


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    gid: int
    members: frozenset[str]


def parse_passwd(text: str) -> dict[str, tuple[int, int, str]]:
    """Return name -> (uid, gid, home). Malformed lines are skipped; the first entry of a name wins."""
    accounts: dict[str, tuple[int, int, str]] = {}
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) < 6 or not fields[2].isdecimal() or not fields[3].isdecimal():
            continue
        accounts.setdefault(fields[0], (int(fields[2]), int(fields[3]), fields[5] or "/"))
    return accounts


def parse_group(text: str) -> list[Group]:
    """Return the groups in file order. Malformed lines are skipped."""
    groups = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) < 4 or not fields[2].isdecimal():
            continue
        members = frozenset(member for member in fields[3].split(",") if member)
        groups.append(Group(fields[0], int(fields[2]), members))
    return groups


@dataclass(frozen=True, slots=True)
class Accounts:
    """One consistent reading of both files."""

    users: Mapping[str, User]
    user_names: Mapping[int, str]
    group_names: Mapping[int, str]


def read_accounts(passwd: str, group: str) -> Accounts:
    groups = parse_group(group)
    users = {
        name: User(name, uid, gid, _memberships(name, gid, groups), home)
        for name, (uid, gid, home) in parse_passwd(passwd).items()
    }
    users.setdefault("root", ROOT)
    user_names: dict[int, str] = {}
    for user in users.values():
        user_names.setdefault(user.uid, user.name)
    group_names: dict[int, str] = {0: "root"}
    group_names.update((entry.gid, entry.name) for entry in reversed(groups))
    return Accounts(users, user_names, group_names)


def _memberships(name: str, gid: int, groups: list[Group]) -> tuple[int, ...]:
    others = (group.gid for group in groups if name in group.members)
    return tuple(dict.fromkeys((gid, *others)))


class UserDatabase:
    """Looks accounts up; reads the files again only when they changed, so a lookup costs two stat calls."""

    def __init__(self, etc: Path = Path("/etc")) -> None:
        self._passwd = etc / "passwd"
        self._group = etc / "group"
        self._stamp: tuple[object, object] | None = None
        self._accounts = read_accounts("", "")

    def find(self, name: str) -> User | None:
        return self._current().users.get(name)

    def user_name(self, uid: int) -> str:
        """Return the account's name, or the number where it has none."""
        return self._current().user_names.get(uid, str(uid))

    def group_name(self, gid: int) -> str:
        return self._current().group_names.get(gid, str(gid))

    def _current(self) -> Accounts:
        stamp = (_stamp(self._passwd), _stamp(self._group))
        if stamp != self._stamp:
            self._accounts = read_accounts(_text(self._passwd), _text(self._group))
            self._stamp = stamp
        return self._accounts


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
