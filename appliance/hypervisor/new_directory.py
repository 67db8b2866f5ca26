"""A directory that appears under its name whole and durable, or not at all."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.common.threads import in_thread
from appliance.common.trees import remove_tree, sync_directory
from appliance.domain.errors import DiskFull, VmmFailure

_PARTIAL = ".partial"


@asynccontextmanager
async def new_directory(path: Path) -> AsyncIterator[Path]:
    """Yield an empty directory of ours alone, and give it the name `path` when the block ends well.

    The block syncs the files it makes. What a crash of ours left half-made, named `.partial`, is removed by the next
    attempt at the same name; whoever sweeps the parent may remove it at any other time.
    """
    partial = path.with_name(path.name + _PARTIAL)
    try:
        await in_thread(_begin, partial, path)
        try:
            yield partial
            await in_thread(_publish, partial, path)
        except BaseException:
            await in_thread(_discard, partial, path)
            raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{path}: {error.strerror}") from error
        raise VmmFailure(f"{path}: {error.strerror}") from error


def _begin(partial: Path, path: Path) -> None:
    if path.exists():
        raise VmmFailure(f"{path}: File exists")
    remove_tree(partial)
    partial.mkdir(mode=0o700)


def _publish(partial: Path, path: Path) -> None:
    sync_directory(partial)
    partial.rename(path)
    sync_directory(path.parent)


def _discard(partial: Path, path: Path) -> None:
    # Under its own name, too: a caller who gave up while it was published must find the name free again.
    for directory in (partial, path):
        remove_tree(directory)
