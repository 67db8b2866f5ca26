"""The file system of a new volume: sparse, journalled, empty, and its user's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.common.process import CommandFailed, run
from appliance.domain.errors import StorageFailure

VOLUME_MIN_MIB = 64

_FORMAT_DEADLINE = timedelta(seconds=60)
_USER = 1000
"""The account of E2B's images that sandboxes' programs run as."""

# mke2fs can state neither the root's mode, before 1.47.1, nor that there shall be no lost+found, which users would see.
_FINISH = b"rmdir lost+found\nset_inode_field <2> mode 040777\n"


def format_argv(device: str) -> list[str]:
    """Return mkfs.ext4's argv for a file of holes, of which as few as possible shall be filled.

    - A journal, unlike an upper: a volume outlives its machines, whatever ends them. A small one, since all of it is
      on the host's disk once it has gone round.
    - `assume_storage_prezeroed`, `packed_meta_blocks`, no room to grow online: see `disks.format_argv`.
    """
    return [
        "mkfs.ext4",
        *("-q", "-F"),
        *("-b", "4096"),
        *("-i", "16384"),
        *("-m", "0"),
        *("-J", "size=16"),
        *("-O", "^resize_inode"),
        *("-E", f"nodiscard,assume_storage_prezeroed=1,packed_meta_blocks=1,root_owner={_USER}:{_USER}"),
        device,
    ]


async def format_volume(fd: int) -> None:
    """Make an empty file system in an open file that has its size. Raises StorageFailure, DeadlineExceeded."""
    device = f"/proc/self/fd/{fd}"
    with TemporaryDirectory(prefix="cube-volume-") as directory:
        finish = Path(directory) / "finish"
        finish.write_bytes(_FINISH)
        for argv in (format_argv(device), ["debugfs", "-w", "-f", str(finish), device]):
            try:
                await run(argv, deadline=_FORMAT_DEADLINE, pass_fds=(fd,))
            except CommandFailed as error:
                raise StorageFailure(f"cannot format a volume: {error}") from error
