"""A newc cpio archive with nothing of the building machine in it: the format the kernel unpacks as initramfs.

Not compressed on purpose: the kernel copies it instead of decompressing it, which is quicker on an emulated processor.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"
_ALIGNMENT = 4
_ROOT_MODE = stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory (no content) or a regular file."""

    path: str
    """Relative to the root, without a leading slash."""
    mode: int
    """File type and permissions, as in `st_mode`."""
    content: bytes = b""


def directory(path: str) -> Entry:
    return Entry(path, _ROOT_MODE)


def file(path: str, content: bytes, *, executable: bool = False) -> Entry:
    return Entry(path, stat.S_IFREG | (0o755 if executable else 0o644), content)


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive. Order is kept: the kernel wants a directory before what is in it."""
    parts = [_member(inode, entry) for inode, entry in enumerate(entries, start=1)]
    parts.append(_member(0, Entry(_TRAILER, 0)))
    return b"".join(parts)


def _member(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (major, minor), rdev (major, minor), name size, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = _MAGIC.encode() + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
