"""A node, the world outside it, and guests with a real TCP/IP stack, each in a network namespace of its own.

A guest is a namespace whose eth0 is a tap; a thread moves frames, with their virtio-net headers, between that tap and
the one CubeVS made, as a VMM does. Large segments and unfinished checksums therefore cross the switch for real.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from appliance.cubevs.base import GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC, GUEST_PREFIX_LENGTH
from appliance.cubevs.switch import CubeVS, SwitchSettings
from appliance.cubevs.taps import open_tap
from tests.support.netns import NetworkNamespace, network_namespace

NODE_UPLINK: Final = IPv4Address("203.0.113.1")
OUTSIDE: Final = IPv4Address("203.0.113.2")
# Addresses the world outside answers on, so that what does not arrive was stopped by the node.
METADATA: Final = IPv4Address("169.254.169.254")
PRIVATE: Final = IPv4Address("192.168.77.1")
ELSEWHERE: Final = IPv4Address("198.51.100.7")

SOCKET_TIMEOUT_S: Final = 5.0
VNET_HEADER: Final = bytes(10)
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_SRXCSUM: Final = 0x15
_ETHTOOL_STXCSUM: Final = 0x17
_TUNSETOFFLOAD: Final = 0x400454D0
_CHECKSUM_AND_TSO4: Final = 0x01 | 0x02


@dataclass(frozen=True)
class Site:
    """The node's namespace, the world's, and the node's BPF file system."""

    node: NetworkNamespace
    outside: NetworkNamespace
    bpffs: Path
    egress_rules: Path
    """Where the switch leaves rules by domain."""

    def switch(self, *, sessions_per_tap: int = 4096) -> CubeVS:
        """Return a new switch, as a Cubelet that starts has; call it inside the node."""
        return CubeVS(
            SwitchSettings(
                bpffs=self.bpffs,
                egress_rules=self.egress_rules,
                egress_seed=self.egress_rules.with_name("egress-seed"),
                sessions_per_tap=sessions_per_tap,
            )
        )

    def listen(self, address: IPv4Address, port: int) -> socket.socket:
        """Return a listening socket of the world outside."""
        with self.outside.entered():
            return listen(address, port)


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """Make a node with an uplink to a world that answers on several addresses, with no way from there into the node."""
    bpffs = directory / "bpf"
    bpffs.mkdir()
    egress_rules = directory / "egress"
    egress_rules.mkdir()
    with network_namespace("node") as node, network_namespace("outside") as outside:
        node.ip(f"link add uplink type veth peer name eth0 netns {outside.name}")
        node.ip(f"address add {NODE_UPLINK}/24 dev uplink")
        node.ip("link set uplink up")
        outside.ip(f"address add {OUTSIDE}/24 dev eth0")
        outside.ip("link set eth0 up")
        # Like a NIC without offloads: checksums are finished by the node and verified by the world, not taken on trust.
        _set_checksum_offload(node, "uplink", on=False)
        _set_checksum_offload(outside, "eth0", on=False)
        for address in (METADATA, PRIVATE, ELSEWHERE):
            outside.ip(f"address add {address}/32 dev lo")
        node.ip(f"route add default via {OUTSIDE}")
        # A neighbour that tries: it knows a way to the sandboxes.
        outside.ip(f"route add 10.88.0.0/16 via {NODE_UPLINK}")
        subprocess.run(("mount", "-t", "bpf", "bpf", str(bpffs)), check=True, timeout=30)
        try:
            yield Site(node, outside, bpffs, egress_rules)
        finally:
            subprocess.run(("umount", str(bpffs)), check=True, timeout=30)


class Guest:
    """A namespace behind a tap. `inject` sends a raw frame as the guest would."""

    def __init__(self, namespace: NetworkNamespace, tap_fd: int) -> None:
        self.namespace = namespace
        self._tap_fd = tap_fd

    def inject(self, frame: bytes) -> None:
        os.write(self._tap_fd, VNET_HEADER + frame)

    def listen(self, port: int) -> socket.socket:
        with self.namespace.entered():
            return listen(GUEST_ADDRESS, port)

    def connect(self, address: IPv4Address, port: int) -> socket.socket:
        with self.namespace.entered():
            return connect(address, port)

    def udp(self) -> socket.socket:
        with self.namespace.entered():
            return udp_socket()


@contextmanager
def guest(tap_fd: int, role: str, *, offloads: bool = True) -> Iterator[Guest]:
    """Put a guest behind the tap open as `tap_fd`, which is taken over.

    With offloads, checksums and segmentation are left to the devices in both directions, as a virtio guest does;
    without, the guest's stack finishes and verifies every checksum itself.
    """
    with ExitStack() as stack:
        stack.callback(os.close, tap_fd)
        namespace = stack.enter_context(network_namespace(role))
        with namespace.entered():
            nic = open_tap("eth0")
        stack.callback(os.close, nic)
        for fd in (nic, tap_fd):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _CHECKSUM_AND_TSO4 if offloads else 0)
        namespace.ip(f"link set eth0 address {GUEST_MAC}")
        namespace.ip(f"address add {GUEST_ADDRESS}/{GUEST_PREFIX_LENGTH} dev eth0")
        namespace.ip("link set eth0 up")
        namespace.ip(f"route add default via {GATEWAY_ADDRESS}")
        stack.enter_context(_cable(nic, tap_fd))
        yield Guest(namespace, tap_fd)


@contextmanager
def _cable(one: int, other: int) -> Iterator[None]:
    """Move frames between two taps until the block ends."""
    stop = os.eventfd(0)

    def move() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            selector.register(one, selectors.EVENT_READ, other)
            selector.register(other, selectors.EVENT_READ, one)
            while True:
                for key, _ in selector.select():
                    if key.fd == stop:
                        return
                    try:
                        os.write(key.data, os.read(key.fd, 1 << 17))
                    except OSError:  # a full queue or a device that is down loses frames, as a wire does
                        continue

    thread = threading.Thread(target=move, name="cable")
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        os.close(stop)


def _set_checksum_offload(namespace: NetworkNamespace, device: str, *, on: bool) -> None:
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in (_ETHTOOL_SRXCSUM, _ETHTOOL_STXCSUM):
            value = ctypes.create_string_buffer(struct.pack("=II", command, on), 8)
            fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sQ16x", device.encode(), ctypes.addressof(value)))


def listen(address: IPv4Address, port: int) -> socket.socket:
    """Return a listening TCP socket in the namespace of this thread."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((str(address), port))
    server.listen(16)
    server.settimeout(SOCKET_TIMEOUT_S)
    return server


def connect(address: IPv4Address, port: int, *, timeout_s: float = SOCKET_TIMEOUT_S) -> socket.socket:
    """Return a connected TCP socket in the namespace of this thread."""
    return socket.create_connection((str(address), port), timeout=timeout_s)


def udp_socket(address: IPv4Address | None = None, port: int = 0) -> socket.socket:
    """Return a UDP socket in the namespace of this thread."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((str(address or ""), port))
    made.settimeout(SOCKET_TIMEOUT_S)
    return made
