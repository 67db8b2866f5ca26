"""Writable disks: sparse files with an empty ext4 in them, and copies that cost only the blocks in use.

Nothing is synced unasked but the pre-made disks: a sandbox does not outlive its host, so its disk need not either.
Whoever keeps a disk, such as a pause or a snapshot, asks for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.common.process import CommandFailed, run
from appliance.common.threads import in_thread
from appliance.common.trees import sync_directory
from appliance.domain.errors import InvalidRequest, StorageFailure
from appliance.storage.publish import name_file, storage_errors, unnamed_file
from appliance.storage.volume_image import VOLUME_MIN_MIB, format_volume

UPPER_MIN_MIB = 1
UPPER_MAX_MIB = 16 * 2**20
"""16 TiB, ext4's limit with 4 KiB blocks; sparse files of any smaller size cost next to nothing."""

_FORMAT_DEADLINE = timedelta(seconds=60)

_FICLONE = 0x40049409
_CANNOT_REFLINK = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_CANNOT_COPY_IN_KERNEL = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
_COPY_BYTES = 2**20


class LocalDiskStore:
    """A `DiskStore` that keeps one pre-made disk a size in `directory`, best on the filesystem of the copies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def create_upper(self, path: Path, *, size_mib: int) -> None:
        if not UPPER_MIN_MIB <= size_mib <= UPPER_MAX_MIB:
            raise InvalidRequest(f"a disk has {UPPER_MIN_MIB} to {UPPER_MAX_MIB} MiB, not {size_mib}")
        await self.clone_upper(await self._premade(size_mib), path)

    async def create_volume(self, path: Path, *, size_mib: int) -> None:
        if not VOLUME_MIN_MIB <= size_mib <= UPPER_MAX_MIB:
            raise InvalidRequest(f"a volume has {VOLUME_MIN_MIB} to {UPPER_MAX_MIB} MiB, not {size_mib}")
        with storage_errors(f"format of a volume of {size_mib} MiB"), unnamed_file(path.parent) as fd:
            os.ftruncate(fd, size_mib * 2**20)
            await format_volume(fd)
            await in_thread(os.fsync, fd)
            name_file(fd, path)
            sync_directory(path.parent)

    async def clone_upper(self, source: Path, path: Path) -> None:
        with storage_errors(f"copy of disk {source.name}"):
            await in_thread(_clone, source, path)

    async def grow_upper(self, path: Path, *, size_mib: int) -> None:
        if size_mib > UPPER_MAX_MIB:
            raise InvalidRequest(f"a disk has {UPPER_MIN_MIB} to {UPPER_MAX_MIB} MiB, not {size_mib}")
        with storage_errors(f"growth of disk {path.name}"):
            if os.stat(path).st_size > size_mib * 2**20:  # noqa: PTH116 - Path's are for threads, and this never waits
                raise InvalidRequest(f"a disk cannot shrink to {size_mib} MiB: a guest's file system fills it")
            os.truncate(path, size_mib * 2**20)

    async def sync_upper(self, path: Path) -> None:
        with storage_errors(f"sync of disk {path.name}"):
            await in_thread(_sync, path)

    async def delete(self, path: Path) -> None:
        with storage_errors(f"removal of disk {path.name}"):
            # Freeing the blocks of a full disk takes the filesystem a while.
            await in_thread(path.unlink, missing_ok=True)

    async def _premade(self, size_mib: int) -> Path:
        premade = self._directory / f"{size_mib}.ext4"
        if premade.exists():
            return premade
        with storage_errors(f"format of a disk of {size_mib} MiB"):
            self._directory.mkdir(parents=True, exist_ok=True)
            with unnamed_file(self._directory) as fd:
                os.ftruncate(fd, size_mib * 2**20)
                await _format(fd)
                os.fchmod(fd, 0o400)
                # It serves until the size is no longer wanted, over restarts of the host: a torn one would spoil all.
                await in_thread(os.fsync, fd)
                with suppress(FileExistsError):  # Somebody else made the same one meanwhile.
                    name_file(fd, premade)
                sync_directory(self._directory)
        return premade


async def _format(fd: int) -> None:
    with TemporaryDirectory(prefix="cube-upper-") as tree:
        _fill(Path(tree))
        try:
            await run(format_argv(f"/proc/self/fd/{fd}", tree), deadline=_FORMAT_DEADLINE, pass_fds=(fd,))
        except CommandFailed as error:
            raise StorageFailure(f"cannot format a disk: {error}") from error


def _fill(tree: Path) -> None:
    for name in ("upper", "work"):
        (tree / name).mkdir()
        # The upper directory's mode becomes that of the guest's root directory, whatever the umask.
        (tree / name).chmod(0o755)


def format_argv(device: str, tree: str) -> list[str]:
    """Return mkfs.ext4's argv for a file of holes, of which as few as possible shall be filled.

    - No journal: the disk is never mounted after a crash, as its sandbox ended with it, and a guest without one writes
      less and has no journal thread to wake up.
    - `assume_storage_prezeroed`: holes are zeros already, and saying so in the group descriptors keeps the guest from
      zeroing its inode tables in the background, 16 MiB a GiB.
    - No room to grow online, metadata packed at the start: fewer and larger extents to copy.
    - Block size and inode density are stated, as mkfs would choose others for small disks.
    """
    return [
        "mkfs.ext4",
        "-q",
        "-F",
        "-b",
        "4096",
        "-i",
        "16384",
        "-m",
        "0",
        "-O",
        "^has_journal,^resize_inode",
        "-E",
        "nodiscard,assume_storage_prezeroed=1,packed_meta_blocks=1,root_owner=0:0",
        "-d",
        tree,
        device,
    ]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)


def _clone(source: Path, path: Path) -> None:
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with unnamed_file(path.parent) as target_fd:
            if not _reflink(source_fd, target_fd):
                _copy_extents(source_fd, target_fd)
            name_file(target_fd, path)
    finally:
        os.close(source_fd)


def _reflink(source_fd: int, target_fd: int) -> bool:
    """Share all blocks, copy-on-write, where the filesystem can (XFS, btrfs)."""
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _CANNOT_REFLINK:
            return False
        raise
    return True


def _copy_extents(source_fd: int, target_fd: int) -> None:
    """Copy what is not a hole, including what is still only in the page cache."""
    size = os.fstat(source_fd).st_size
    os.ftruncate(target_fd, size)
    end = 0
    while end < size:
        try:
            start = os.lseek(source_fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # Only a hole is left.
                return
            raise
        end = os.lseek(source_fd, start, os.SEEK_HOLE)
        _copy_range(source_fd, target_fd, start, end)


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source_fd, target_fd, end - start, start, start)
        except OSError as error:
            if error.errno not in _CANNOT_COPY_IN_KERNEL:
                raise
            copied = os.pwrite(target_fd, os.pread(source_fd, min(end - start, _COPY_BYTES), start), start)
        if copied == 0:
            raise StorageFailure("a disk became shorter while it was copied")
        start += copied
