"""The maps that user space and the programs share: the twin of `bpf/maps.h`, byte for byte.

User space makes every map and pins it before the programs are compiled against the pins. Maps therefore outlive
Cubelet, and an upgrade of the programs keeps every session. Addresses and ports are in network byte order, all else in
the host's.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, Self

from appliance.cubevs.base import DropReason
from appliance.cubevs.kernel import NO_PREALLOC, BpfMap, MapShape, MapType
from appliance.domain.errors import NetworkFailure

# Of the pinned maps. Raise it when a struct of maps.h changes: another layout lives in another directory. A field that
# takes the place of zeros, and whose zero means what the zeros meant, is no change.
LAYOUT_VERSION: Final = 1
DEFAULT_BPFFS: Final = Path("/run/cube/bpf")

MAX_TAPS: Final = 4096
_MAX_POLICY_ENTRIES: Final = 1 << 18
_MAX_DENIED_NETWORKS: Final = 1024
_MAX_NODE_ADDRESSES: Final = 4096
_DROP_COUNTERS: Final = 32
_MAX_DIVERTED: Final = 1 << 18
_POLICY_FIXED_BITS: Final = 96

ONLY_KEY: Final = struct.pack("=I", 0)
NOWHERE: Final = IPv4Address(0)


class TapFlag(IntFlag):
    ADMITTED = 1
    INTERNET = 2
    BY_DOMAIN = 4
    INSPECTED = 8
    TUNNELLED = 16
    NAMELESS = 32


PROXIED: Final = TapFlag.BY_DOMAIN | TapFlag.INSPECTED | TapFlag.TUNNELLED
"""With any of them, the egress proxy needs to know the rules of the sandbox."""

UNADMITTED: Final = TapFlag(0)


class PolicyList(IntEnum):
    ALLOW = 1
    DENY = 2


class Opener(IntEnum):
    NODE = 1
    GUEST = 2


class Closed(IntFlag):
    BY_GUEST = 1
    BY_PEER = 2
    RESET = 4


@dataclass(frozen=True, slots=True)
class Config:
    """Host constants. All zero, as in a fresh map, makes the programs drop everything."""

    node_address: IPv4Address
    sandbox_network: IPv4Network
    dns_address: IPv4Address
    tcp_idle_s: int
    tcp_closed_s: int
    datagram_idle_s: int
    proxy_http_port: int
    proxy_tls_port: int

    LAYOUT = struct.Struct("=4s4s4s4sIII2s2s")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.node_address.packed,
            self.sandbox_network.network_address.packed,
            self.sandbox_network.netmask.packed,
            self.dns_address.packed,
            self.tcp_idle_s,
            self.tcp_closed_s,
            self.datagram_idle_s,
            self.proxy_http_port.to_bytes(2, "big"),
            self.proxy_tls_port.to_bytes(2, "big"),
        )


@dataclass(frozen=True, slots=True)
class TapEntry:
    """What the programs know of a tap; its key is the ifindex."""

    address: IPv4Address
    flags: TapFlag = UNADMITTED
    generation: int = 0

    LAYOUT = struct.Struct("=4sIII")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.address.packed, self.flags, self.generation, 0)

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        address, flags, generation, _ = cls.LAYOUT.unpack(value)
        return cls(IPv4Address(address), TapFlag(flags), generation)


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """One network of a tap's policy, under the generation that the tap's entry names."""

    ifindex: int
    generation: int
    list: PolicyList
    network: IPv4Network

    LAYOUT = struct.Struct("=IIII4s")

    def pack(self) -> bytes:
        bits = _POLICY_FIXED_BITS + self.network.prefixlen
        return self.LAYOUT.pack(bits, self.ifindex, self.generation, self.list, self.network.network_address.packed)

    @classmethod
    def unpack(cls, key: bytes) -> Self:
        bits, ifindex, generation, listed, network = cls.LAYOUT.unpack(key)
        prefix = bits - _POLICY_FIXED_BITS
        return cls(ifindex, generation, PolicyList(listed), IPv4Network((network, prefix)))


@dataclass(frozen=True, slots=True)
class NetworkKey:
    """A network that no guest reaches."""

    network: IPv4Network

    LAYOUT = struct.Struct("=I4s")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.network.prefixlen, self.network.network_address.packed)

    @classmethod
    def unpack(cls, key: bytes) -> Self:
        prefix, network = cls.LAYOUT.unpack(key)
        return cls(IPv4Network((network, prefix)))


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A flow between a guest and its peer; ports of ICMP echo are (identifier, 0)."""

    peer: IPv4Address
    guest_port: int
    peer_port: int
    protocol: int

    LAYOUT = struct.Struct("=4s2s2sB3x")

    def pack(self) -> bytes:
        guest_port, peer_port = self.guest_port.to_bytes(2, "big"), self.peer_port.to_bytes(2, "big")
        return self.LAYOUT.pack(self.peer.packed, guest_port, peer_port, self.protocol)

    @classmethod
    def unpack(cls, key: bytes) -> Self:
        peer, guest_port, peer_port, protocol = cls.LAYOUT.unpack(key)
        return cls(IPv4Address(peer), int.from_bytes(guest_port, "big"), int.from_bytes(peer_port, "big"), protocol)


@dataclass(frozen=True, slots=True)
class Session:
    """When a flow was last seen (nanoseconds of CLOCK_MONOTONIC) and who opened and closed it.

    `original` is where the guest sent a flow that goes to the egress proxy, NOWHERE for every other; `original_port`
    to which port, where the proxy's own port does not tell.
    """

    seen_ns: int
    opener: Opener
    closed: Closed
    original: IPv4Address = NOWHERE
    original_port: int = 0

    LAYOUT = struct.Struct("=QBB2s4s")

    def pack(self) -> bytes:
        port = self.original_port.to_bytes(2, "big")
        return self.LAYOUT.pack(self.seen_ns, self.opener, self.closed, port, self.original.packed)

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        seen_ns, opener, closed, port, original = cls.LAYOUT.unpack(value)
        return cls(seen_ns, Opener(opener), Closed(closed), IPv4Address(original), int.from_bytes(port, "big"))


@dataclass(frozen=True, slots=True)
class DivertedKey:
    """A flow as the egress proxy sees it."""

    tap_address: IPv4Address
    guest_port: int
    proxy_port: int

    LAYOUT = struct.Struct("=4s2s2s")

    def pack(self) -> bytes:
        guest_port, proxy_port = self.guest_port.to_bytes(2, "big"), self.proxy_port.to_bytes(2, "big")
        return self.LAYOUT.pack(self.tap_address.packed, guest_port, proxy_port)

    @classmethod
    def unpack(cls, key: bytes) -> Self:
        address, guest_port, proxy_port = cls.LAYOUT.unpack(key)
        return cls(IPv4Address(address), int.from_bytes(guest_port, "big"), int.from_bytes(proxy_port, "big"))


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a guest sent a flow that was diverted."""

    address: IPv4Address
    port: int

    LAYOUT = struct.Struct("=4s2s2x")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.address.packed, self.port.to_bytes(2, "big"))

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        address, port = cls.LAYOUT.unpack(value)
        return cls(IPv4Address(address), int.from_bytes(port, "big"))


def pack_index(index: int) -> bytes:
    """Return the key of a map that is indexed by a number, such as an ifindex."""
    return struct.pack("=I", index)


def unpack_index(key: bytes) -> int:
    return int(struct.unpack("=I", key)[0])


def pack_mark() -> bytes:
    """Return the value of maps that are sets."""
    return struct.pack("=I", 1)


def session_shape(entries: int) -> MapShape:
    """Return the shape of one tap's sessions."""
    return MapShape(MapType.LRU_HASH, SessionKey.LAYOUT.size, Session.LAYOUT.size, entries)


SHAPES: Final = {
    "config": MapShape(MapType.ARRAY, 4, Config.LAYOUT.size, 1),
    "taps": MapShape(MapType.HASH, 4, TapEntry.LAYOUT.size, MAX_TAPS),
    "sessions": MapShape(MapType.HASH_OF_MAPS, 4, 4, MAX_TAPS),
    "denied": MapShape(MapType.LPM_TRIE, NetworkKey.LAYOUT.size, 4, _MAX_DENIED_NETWORKS, NO_PREALLOC),
    "policy": MapShape(MapType.LPM_TRIE, PolicyKey.LAYOUT.size, 4, _MAX_POLICY_ENTRIES, NO_PREALLOC),
    "node_addresses": MapShape(MapType.HASH, 4, 4, _MAX_NODE_ADDRESSES),
    "drops": MapShape(MapType.PERCPU_ARRAY, 4, 8, _DROP_COUNTERS),
    "diverted": MapShape(MapType.LRU_HASH, DivertedKey.LAYOUT.size, Destination.LAYOUT.size, _MAX_DIVERTED),
}


class Maps:
    """The pinned maps of one node, open."""

    def __init__(self, opened: dict[str, BpfMap], sessions_per_tap: int) -> None:
        self.config = opened["config"]
        self.taps = opened["taps"]
        self.sessions = opened["sessions"]
        self.denied = opened["denied"]
        self.policy = opened["policy"]
        self.node_addresses = opened["node_addresses"]
        self._drops = opened["drops"]
        self._sessions_per_tap = sessions_per_tap

    def fresh_sessions(self, ifindex: int) -> None:
        """Give a tap an empty session map; every session it had ends at that instant.

        Blocks for some 15 ms: the kernel waits until no program uses the former map.
        """
        shape = session_shape(self._sessions_per_tap)
        fresh = BpfMap.create(shape, name="cube_session")
        self.sessions.put(pack_index(ifindex), struct.pack("=I", fresh.fd))
        fresh.close()  # the outer map holds it now

    def wait_for_programs(self, ifindex: int) -> None:
        """Return when every run of a program that began before this call has ended. Sessions stay.

        The kernel waits so whenever a map of maps is written, whatever is written. Blocks for some 15 ms.
        """
        sessions = self.sessions_of(ifindex)
        if sessions is None:
            return
        try:
            self.sessions.put(pack_index(ifindex), struct.pack("=I", sessions.fd))
        finally:
            sessions.close()

    def sessions_of(self, ifindex: int) -> BpfMap | None:
        """Open the session map of a tap; None where it has none."""
        id_ = self.sessions.get(pack_index(ifindex))
        try:
            return BpfMap.by_id(unpack_index(id_)) if id_ else None
        except FileNotFoundError:  # swapped meanwhile
            return None

    def drops(self) -> dict[DropReason, int]:
        """Return packets dropped, by reason, over all CPUs."""
        counts: dict[DropReason, int] = {}
        for reason in DropReason:
            values = self._drops.get(pack_index(reason)) or b""
            counts[reason] = sum(count for (count,) in struct.iter_unpack("=Q", values))
        return counts


def replace_set(target: BpfMap, wanted: set[bytes]) -> None:
    """Make `target` hold exactly the keys `wanted`; additions come first, so nothing opens meanwhile."""
    present = set(target.keys())
    for key in wanted - present:
        target.put(key, pack_mark())
    for key in present - wanted:
        target.delete(key)


def maps_directory(bpffs: Path) -> Path:
    """Return where the maps of this layout are pinned."""
    return bpffs / f"v{LAYOUT_VERSION}" / "maps"


def diverted_pin(bpffs: Path) -> Path:
    return maps_directory(bpffs) / "diverted"


def let_read_diverted(bpffs: Path, group: int) -> None:
    """Let `group` read where flows were sent that are diverted, and nothing else: each other pin is root's alone."""
    pin = diverted_pin(bpffs)
    os.chown(pin, 0, group)
    pin.chmod(0o640)
    for directory in (bpffs, pin.parent.parent, pin.parent):
        directory.chmod(0o711)


def open_maps(directory: Path, *, sessions_per_tap: int) -> Maps:
    """Open the maps pinned in `directory` and make those that are missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened: dict[str, BpfMap] = {}
    for name, shape in SHAPES.items():
        opened[name] = _open_or_create(directory / name, name, shape)
    return Maps(opened, sessions_per_tap)


def _open_or_create(path: Path, name: str, shape: MapShape) -> BpfMap:
    try:
        found = BpfMap.open(path)
    except FileNotFoundError:
        inner = BpfMap.create(session_shape(1), name="cube_session") if shape.type is MapType.HASH_OF_MAPS else None
        made = BpfMap.create(shape, name=f"cube_{name}", inner=inner)
        made.pin(path)
        return made
    if found.shape != shape:
        raise NetworkFailure(f"the pinned map {path} has {found.shape}, not {shape}: LAYOUT_VERSION was not raised")
    return found
