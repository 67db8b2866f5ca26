"""Layers as tar files: the same tree gives the same bytes, and nothing gets in that no image may hold."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from image_build.commands import SOURCE_DATE_EPOCH
from image_build.errors import UncleanImage

_FORBIDDEN_FILES = re.compile(
    r"etc/ssh/ssh_host_.*|etc/resolv\.conf|etc/hostname|var/lib/dbus/machine-id|"
    r"var/lib/apt/lists/(?!lock$)[^/]+|var/cache/apt/.+\.(bin|deb)|var/log/.+|"
    r"(root|home/[^/]+)/\.(cache/.*|ssh/.*|bash_history|netrc|pypirc|gitconfig|python_history)"
)
"""Secrets, identities and leftovers of a build. Directories of these names may stay."""

_MUST_BE_EMPTY = "etc/machine-id"
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
_KEY_SUFFIXES = (".pem", ".key")
_SHADOW = "etc/shadow"
_NO_PASSWORD = ("*", "!", "!*", "!!")


def normalise(source: Path, destination: Path, *, image: str) -> frozenset[str]:
    """Copy a tar without device nodes (a sandbox has its own /dev) and build times; return the names in it.

    Raises `UncleanImage`, and then leaves no file.
    """
    with tarfile.open(source) as archive:
        return _write(destination, _members_of_tar(archive), image=image)


def pack_added(root: Path, destination: Path, *, present: frozenset[str], image: str) -> frozenset[str]:
    """Write a layer of the paths below `root` that are not in the layers under it; return their names."""
    return _write(destination, _members_of_tree(root, present), image=image)


def violations(name: str, content: Callable[[], bytes]) -> list[str]:
    """Return what is wrong with one regular file. `content` is called only where the name calls for it."""
    if _FORBIDDEN_FILES.fullmatch(name):
        return [f"{name} must not be there"]
    if name == _MUST_BE_EMPTY and content():
        return [f"{name} must be empty"]
    if name == _SHADOW and (users := _users_with_password(content())):
        return [f"{name} has a password for {', '.join(users)}"]
    if name.endswith(_KEY_SUFFIXES) and _PRIVATE_KEY.search(content()):
        return [f"{name} holds a private key"]
    return []


Member = tuple[tarfile.TarInfo, Callable[[], bytes] | None]
"""A member and, for a regular file, how to get its content."""


def _write(destination: Path, members: Iterable[Member], *, image: str) -> frozenset[str]:
    partial = destination.with_suffix(".partial")
    names: set[str] = set()
    findings: list[str] = []
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as layer:
        for info, read in members:
            names.add(info.name)
            if read is None:
                layer.addfile(info)
                continue
            findings += violations(info.name, read)
            layer.addfile(info, io.BytesIO(read()))
    if findings:
        partial.unlink()
        raise UncleanImage(image, findings)
    partial.replace(destination)
    return frozenset(names)


def _members_of_tar(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        name = info.name.removeprefix("./").rstrip("/")
        if info.isdev() or name in ("", "."):
            continue
        info.name = name
        if info.islnk():
            info.linkname = info.linkname.removeprefix("./")
        info.mtime = min(int(info.mtime), SOURCE_DATE_EPOCH)
        info.uname = info.gname = ""
        # Numbers that tarfile would write again, with build times among them; extended attributes stay.
        info.pax_headers = {key: value for key, value in info.pax_headers.items() if key.startswith("SCHILY.xattr.")}
        yield info, _content_of_member(archive, info) if info.isreg() else None


def _content_of_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        stream = archive.extractfile(info)
        assert stream is not None, "a regular file has content"
        return stream.read()

    return read


def _members_of_tree(root: Path, present: frozenset[str]) -> Iterator[Member]:
    with tarfile.open("/dev/null", "w", format=tarfile.PAX_FORMAT) as template:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if name in present:
                continue
            # tarfile makes a second path of one file a hard link; the order of paths decides which, and it is sorted.
            info = template.gettarinfo(path, arcname=name)
            info.mtime = min(int(info.mtime), SOURCE_DATE_EPOCH)
            info.uname = info.gname = ""
            yield info, path.read_bytes if info.isreg() else None


def _users_with_password(shadow: bytes) -> list[str]:
    fields = [line.split(":") for line in shadow.decode().splitlines() if line]
    return [user for user, password, *_ in fields if password not in _NO_PASSWORD]
