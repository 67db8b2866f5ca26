"""The disks that the node has put into this machine's slots: mounting them, and letting go of them.

A slot is a writable virtio disk after the root's own (see `init/boot.c`). In a template nothing is in it; a clone finds
another disk behind the same device, of which its kernel knows nothing yet.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Protocol

from guest_agent.errors import HttpError

_BLKFLSBUF = 0x1261
_MS_NOSUID, _MS_NODEV = 2, 4
_AFTER_THE_ROOTS_OWN = re.compile(r"vd[c-z]")

_libc = ctypes.CDLL(None, use_errno=True)


class Slots(Protocol):
    def mount(self, slot: int, path: str) -> None:
        """Mount a slot's disk at `path`, which is made where it is missing. Raises HttpError. Safe to repeat."""
        ...

    def open(self, slot: int, path: str) -> int:
        """Return a descriptor of the root of a mounted disk. Raises HttpError 409 where it is not mounted there."""
        ...

    def release(self, slot: int, path: str) -> None:
        """Write all of a disk to it, and unmount it where no program uses it. One that is not mounted is success."""
        ...


class GuestSlots:
    """Those of the virtual machine that this agent runs in."""

    def __init__(self, blocks: Path = Path("/sys/block"), devices: Path = Path("/dev")) -> None:
        self._blocks = blocks
        self._devices = devices

    def mount(self, slot: int, path: str) -> None:
        try:
            device = self._device(slot)
            Path(path).mkdir(parents=True, exist_ok=True)
            if Path(path).stat().st_dev == self._number(device):
                return
            _forget_cached(str(self._devices / device))
            _mount(str(self._devices / device), path)
        except OSError as error:
            raise HttpError(500, f"cannot mount the volume at '{path}': {error.strerror}") from error

    def open(self, slot: int, path: str) -> int:
        try:
            descriptor = _open_directory(path)
        except OSError as error:
            raise _not_mounted(path) from error
        if os.fstat(descriptor).st_dev == self._number(self._device(slot)):
            return descriptor
        os.close(descriptor)
        raise _not_mounted(path)

    def release(self, slot: int, path: str) -> None:
        try:
            root = self.open(slot, path)
        except HttpError:
            return
        _sync_and_close(root)
        if _libc.umount2(os.fsencode(path), 0) < 0 and (number := ctypes.get_errno()) != errno.EBUSY:
            raise HttpError(500, f"cannot unmount the volume at '{path}': {os.strerror(number)}")

    def _device(self, slot: int) -> str:
        """Return the name of a slot's device, such as `vdd`."""
        names = sorted(path.name for path in self._blocks.iterdir() if _AFTER_THE_ROOTS_OWN.fullmatch(path.name))
        slots = [name for name in names if (self._blocks / name / "ro").read_text().strip() == "0"]
        if slot >= len(slots):
            raise HttpError(500, f"this machine has {len(slots)} slots for volumes, and no number {slot}")
        return slots[slot]

    def _number(self, device: str) -> int:
        major, minor = (self._blocks / device / "dev").read_text().strip().split(":")
        return os.makedev(int(major), int(minor))


class BorrowedSlots:
    """Directories of a machine that is not the agent's own: whatever is at their paths."""

    def mount(self, slot: int, path: str) -> None:
        """Change nothing."""

    def open(self, slot: int, path: str) -> int:
        try:
            return _open_directory(path)
        except OSError as error:
            raise _not_mounted(path) from error

    def release(self, slot: int, path: str) -> None:
        _sync_and_close(self.open(slot, path))


def _not_mounted(path: str) -> HttpError:
    return HttpError(409, f"the volume is no longer mounted at '{path}' in its sandbox")


def _open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _forget_cached(device: str) -> None:
    """Drop what the kernel has read of the disk that was behind the device before."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _BLKFLSBUF, 0)
    finally:
        os.close(descriptor)


def _mount(device: str, path: str) -> None:
    # discard: what is deleted in here takes no room on the node's disk either.
    arguments = (os.fsencode(device), os.fsencode(path), b"ext4", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), b"discard")
    if _libc.mount(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _sync_and_close(root: int) -> None:
    try:
        if _libc.syncfs(root) < 0:
            raise HttpError(500, f"cannot write the volume to its disk: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(root)
