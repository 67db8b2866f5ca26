"""Moving across file systems, where the kernel cannot rename: copy, then remove.

Python's own copy leaves owners behind, and moves into a directory of the destination's name instead of replacing it.
"""

# Paths are plain strings here, as clients send them.
# ruff: noqa: PTH104, PTH106, PTH108, PTH112, PTH114, PTH115, PTH211

from __future__ import annotations

import errno
import os
import shutil
import stat

from guest_agent.filesystem.ownership import make_directories
from guest_agent.users import User


def move(source: str, destination: str, user: User) -> None:
    """Move a file, link or whole directory; the destination's missing parents become the user's. Raise OSError."""
    os.lstat(source)
    make_directories(destination.rpartition("/")[0] or "/", user)
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_and_remove(source, destination)


def _copy_and_remove(source: str, destination: str) -> None:
    if stat.S_ISDIR(os.lstat(source).st_mode):
        # As rename does: an empty directory is replaced, another one refused.
        if os.path.isdir(destination) and not os.path.islink(destination):
            os.rmdir(destination)
        shutil.copytree(source, destination, symlinks=True, copy_function=_copy_file)
        for directory, below, files in os.walk(source):
            copied = destination + directory.removeprefix(source)
            for name in (*below, *files):
                # copytree makes links itself.
                if os.path.islink(f"{directory}/{name}"):
                    _copy_owner(f"{directory}/{name}", f"{copied}/{name}")
            _copy_owner(directory, copied)
            shutil.copystat(directory, copied)
        shutil.rmtree(source)
        return
    if os.path.isdir(destination):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), destination)
    _remove_name(destination)
    _copy_file(source, destination)
    os.unlink(source)


def _copy_file(source: str, destination: str) -> None:
    """Copy content, attributes, times and owner. The owner first: changing it clears the set-user-id bit."""
    if stat.S_ISLNK(os.lstat(source).st_mode):
        os.symlink(os.readlink(source), destination)
    elif stat.S_ISREG(os.lstat(source).st_mode):
        shutil.copyfile(source, destination)
    else:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
    _copy_owner(source, destination)
    shutil.copystat(source, destination, follow_symlinks=False)


def _copy_owner(source: str, destination: str) -> None:
    status = os.lstat(source)
    os.chown(destination, status.st_uid, status.st_gid, follow_symlinks=False)


def _remove_name(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
