"""Tap devices: names, addresses, and the few ioctls of /dev/net/tun.

A tap is persistent: it outlives the VMM and Cubelet, and a VMM gets it by descriptor, so that it needs no capability.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

TAP_PREFIX: Final = "cubetap"

_TUN_DEVICE: Final = Path("/dev/net/tun")
_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNSETOWNER: Final = 0x400454CC
_IFF_TUN: Final = 0x0001
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
# The virtio-net header, which every VMM expects: by it a guest hands over large segments and unfinished checksums.
_IFF_VNET_HDR: Final = 0x4000

_NAME = re.compile(rf"{TAP_PREFIX}([1-9][0-9]*)")


def tap_name(index: int) -> str:
    return f"{TAP_PREFIX}{index}"


def tap_index(name: str) -> int | None:
    """Return N of `cubetap<N>`, None for any other device."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def tap_address(network: IPv4Network, index: int) -> IPv4Address:
    """Return the address of tap `index` (from 1): the network's first host address is the node's own."""
    return network[index + 1]


def highest_index(network: IPv4Network) -> int:
    """Return the last index whose address is not the broadcast address."""
    return network.num_addresses - 3


def make_tap(name: str, *, owner: int) -> None:
    """Make a persistent tap that `owner` (a uid) may open."""
    fd = open_tap(name)
    try:
        fcntl.ioctl(fd, _TUNSETOWNER, owner)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def open_tap(name: str) -> int:
    """Return an inheritable descriptor of a tap; OSError EBUSY while another one is open."""
    return _attach(name, _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR, inheritable=True)


def make_address_holder(name: str) -> None:
    """Make a persistent device that only holds an address.

    It is a tun device that nobody reads: the taps need that driver anyway, whereas a kernel may lack `dummy`.
    """
    fd = _attach(name, _IFF_TUN | _IFF_NO_PI, inheritable=False)
    try:
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def _attach(name: str, flags: int, *, inheritable: bool) -> int:
    fd = os.open(_TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        os.set_inheritable(fd, inheritable)
    except BaseException:
        os.close(fd)
        raise
    return fd
