"""The files and sockets that QEMU inherits, opened by Cubelet, and closed again once QEMU has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from appliance.domain.errors import VmmFailure
from appliance.hypervisor import sockets
from appliance.hypervisor.base import Disk, VmSpec

_MIB = 2**20


@contextmanager
def listening(path: Path) -> Iterator[int]:
    """A Unix socket at `path`, as a descriptor; the path stays when the block is left."""
    try:
        listener = sockets.listen(path)
    except OSError as error:
        raise VmmFailure(f"{path}: {error.strerror}") from error
    with listener:
        yield listener.fileno()


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A file that must exist. Its offset is its own, however often it is open elsewhere."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise VmmFailure(f"{path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def opened_disk(disk: Disk) -> AbstractContextManager[int]:
    """A disk, opened the way the guest may use it."""
    return opened(disk.path, os.O_RDONLY if disk.read_only else os.O_RDWR)


@contextmanager
def created_memory(spec: VmSpec) -> Iterator[int]:
    """A sparse file for the machine's RAM, which only its own VMM can write; removed if the block fails."""
    try:
        fd = os.open(spec.memory_file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VmmFailure(f"{spec.memory_file}: {error.strerror}") from error
    try:
        os.truncate(fd, spec.memory_mib * _MIB)
        if spec.confinement is not None:
            os.chown(fd, spec.confinement.uid, spec.confinement.gid)
        yield fd
    except BaseException:
        spec.memory_file.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def seal(memory_file: Path) -> None:
    """Make RAM durable and read-only: every clone maps it, each as a user of its own. Blocks until it is on disk."""
    memory_file.chmod(0o444)
    with memory_file.open("rb") as file:
        os.fsync(file.fileno())
