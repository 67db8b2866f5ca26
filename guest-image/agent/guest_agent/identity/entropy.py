"""The kernel's random numbers. Clones of one snapshot would all draw the same ones."""

from __future__ import annotations

import fcntl
import os
import struct

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_HEADER = struct.Struct("=ii")


def pool_info(seed: bytes) -> bytes:
    """Return `struct rand_pool_info`: credited bits, size in bytes, the bytes."""
    return _HEADER.pack(len(seed) * 8, len(seed)) + seed


def reseed(seed: bytes, device: str = "/dev/urandom") -> None:
    """Mix `seed` in, then make the kernel derive a new key from its pool at once. Needs CAP_SYS_ADMIN.

    Without the second step the numbers that follow still come from the key in the snapshot, for up to a minute.
    """
    descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _RNDADDENTROPY, pool_info(seed))
        fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
    finally:
        os.close(descriptor)
