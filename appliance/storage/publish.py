"""Files that appear whole or not at all: written without a name, linked into place when complete.

A file without a name is freed by the kernel when its descriptor closes, so a failure, a cancelled task and a killed
process leave nothing behind, and no start-up sweep is needed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.domain.errors import DiskFull, StorageFailure

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def unnamed_file(directory: Path) -> Iterator[int]:
    """Yield the descriptor of an empty file on the directory's filesystem that has no name yet. Mode 0600."""
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def name_file(fd: int, path: Path) -> None:
    """Give an unnamed file its name. Raises FileExistsError; never replaces."""
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a directory descriptor Python calls linkat and asks it to follow the magic link; without one it calls
        # link, which does not. (AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH.)
        os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=directory_fd, follow_symlinks=True)
    finally:
        os.close(directory_fd)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Translate the kernel's word into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"{doing}: the node's disk is full") from error
        raise StorageFailure(f"{doing}: {error.strerror}") from error
