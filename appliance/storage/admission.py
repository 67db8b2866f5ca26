"""Which tar entries the host accepts into a layer, and under which name: pure rules, each with a name of its own.

Nothing is ever unpacked on the host, so these rules guard less against writing outside a directory than against
archives that mean different things to different readers, and against what the guest's own kernel would obey.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from appliance.domain.errors import ImageRejected
from appliance.storage.tar import Kind, Member

Path = tuple[str, ...]
"""Components below the root; the root itself is `()`."""

NAME_MAX_BYTES = 255
"""What Linux and squashfs allow in one name."""

DEPTH_MAX = 256
"""Directories deeper than any package nests them, and shallow enough for readers that recurse."""

XATTR_MAX_BYTES = 65536
"""Linux's limit for one value."""

SYMBOLIC_LINK_MAX_BYTES = 4095

_ID_MAX = 2**32 - 2
_TIME_MAX = 2**32 - 1
_WHITEOUT_PREFIX = ".wh."
_OPAQUE_NAME = ".wh..wh..opq"
_AUFS_PREFIX = ".wh..wh."


class Role(Enum):
    """What an entry does to the layers below its own."""

    CONTENT = auto()
    WHITEOUT = auto()
    """Hides `path` of the lower layers."""
    OPAQUE = auto()
    """Hides all that the lower layers have below `path`."""
    IGNORED = auto()
    """Bookkeeping of AUFS that old images still carry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An admitted entry. `member` has its numbers within what squashfs stores and only the xattrs that are kept."""

    role: Role
    path: Path
    member: Member
    link_path: Path = field(default=())
    """Of a hard link: the name it shares its content with."""


def admit(member: Member, *, path_max_bytes: int) -> Entry:
    """Return what `member` means, or raise `ImageRejected` with the rule that it breaks."""
    path = _path(member.name, path_max_bytes, what="entry")
    _refuse_devices(member, path)
    role, path = _role(member, path)
    if role is not Role.CONTENT:
        return Entry(role, path, member)
    if not path and member.kind is not Kind.DIRECTORY:
        raise ImageRejected("bad-name", "the root is not a directory")
    link_path: Path = ()
    if member.kind is Kind.HARD_LINK:
        link_path = _path(member.link_target, path_max_bytes, what="hard link target")
    if member.kind is Kind.SYMBOLIC_LINK:
        _check_symbolic_link(member, path)
    return Entry(role, path, _stored(member, path), link_path)


def _path(name: bytes, path_max_bytes: int, *, what: str) -> Path:
    if len(name) > path_max_bytes:
        raise ImageRejected("path-too-long", f"{what} name has {len(name)} bytes")
    text = _decode(name, what)
    if text.startswith("/"):
        raise ImageRejected("absolute-path", f"{what} {text!r} is absolute")
    components = tuple(part for part in text.split("/") if part not in ("", "."))
    if ".." in components:
        raise ImageRejected("path-traversal", f"{what} {text!r} leaves the root")
    if not text:
        raise ImageRejected("bad-name", f"{what} has no name")
    if len(components) > DEPTH_MAX:
        raise ImageRejected("path-depth", f"{what} is {len(components)} directories deep")
    if any(len(part.encode()) > NAME_MAX_BYTES for part in components):
        raise ImageRejected("path-too-long", f"{what} has a name of more than {NAME_MAX_BYTES} bytes")
    return components


def _decode(name: bytes, what: str) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise ImageRejected("name-encoding", f"{what} {name!r} is not UTF-8") from None
    if "\0" in text:
        raise ImageRejected("name-encoding", f"{what} {name!r} contains NUL")
    return text


def _refuse_devices(member: Member, path: Path) -> None:
    # A device 0:0 is overlayfs' own whiteout, which is not how OCI layers say it: the guest's overlayfs would obey it.
    if member.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        raise ImageRejected("device-node", f"'{'/'.join(path)}' is a device")


def _role(member: Member, path: Path) -> tuple[Role, Path]:
    if any(part.startswith(_AUFS_PREFIX) and part != _OPAQUE_NAME for part in path):
        return Role.IGNORED, path
    if any(part.startswith(_WHITEOUT_PREFIX) for part in path[:-1]):
        raise ImageRejected("bad-whiteout", f"'{'/'.join(path)}' lies below a whiteout")
    if not path or not path[-1].startswith(_WHITEOUT_PREFIX):
        return Role.CONTENT, path
    if member.kind not in (Kind.FILE, Kind.HARD_LINK) or member.size:
        raise ImageRejected("bad-whiteout", f"'{'/'.join(path)}' is not an empty file")
    if path[-1] == _OPAQUE_NAME:
        return Role.OPAQUE, path[:-1]
    hidden = path[-1].removeprefix(_WHITEOUT_PREFIX)
    if hidden in ("", ".", ".."):
        raise ImageRejected("bad-whiteout", f"'{'/'.join(path)}' hides nothing that has a name")
    return Role.WHITEOUT, (*path[:-1], hidden)


def _check_symbolic_link(member: Member, path: Path) -> None:
    # Where it points is the guest's business: the host never follows it.
    if not member.link_target or len(member.link_target) > SYMBOLIC_LINK_MAX_BYTES:
        raise ImageRejected("bad-link", f"'{'/'.join(path)}' has a target of {len(member.link_target)} bytes")
    _decode(member.link_target, "symbolic link target")


def _stored(member: Member, path: Path) -> Member:
    for number in (member.uid, member.gid):
        if not 0 <= number <= _ID_MAX:
            raise ImageRejected("number-out-of-range", f"'{'/'.join(path)}' has owner {member.uid}:{member.gid}")
    return Member(
        name=member.name,
        kind=member.kind,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=min(max(member.mtime, 0), _TIME_MAX),
        size=member.size,
        link_target=member.link_target,
        xattrs=_kept_xattrs(member.xattrs, path) if member.xattrs else {},
    )


def _kept_xattrs(xattrs: Mapping[bytes, bytes], path: Path) -> dict[bytes, bytes]:
    """Keep file capabilities and user attributes. Labels and ACLs belong to the system that made the image."""
    if any(len(value) > XATTR_MAX_BYTES for value in xattrs.values()):
        raise ImageRejected(
            "xattr-too-large", f"an attribute of '{'/'.join(path)}' has more than {XATTR_MAX_BYTES} bytes"
        )
    if any(name.startswith((b"trusted.overlay.", b"user.overlay.")) for name in xattrs):
        # The guest's overlayfs would follow redirects and whiteouts that no layer tool has seen.
        raise ImageRejected("overlay-xattr", f"'{'/'.join(path)}' carries attributes of overlayfs")
    return {
        name: value
        for name, value in xattrs.items()
        if name == b"security.capability" or (name.startswith(b"user.") and len(name) <= NAME_MAX_BYTES)
    }
