"""Directories: removed by those who cannot wait for it, nor fail because of it, and made durable."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import structlog

log = structlog.get_logger()


def remove_tree(path: Path) -> None:
    """Remove a directory with all that can be removed of it; absent ones are success. Blocks.

    What stays is logged with the first error: whoever comes by the same name later meets it again.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        # The rest of it: one file that stays keeps no other. What did stay is logged below.
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            log.warning("directory_not_removed", path=str(path), error=f"{error.filename}: {error.strerror}")


def sync_directory(directory: Path) -> None:
    """Make names that were added to, or removed from, the directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
