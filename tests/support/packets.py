"""Ethernet frames as bytes, with checksums computed here and not by the code under test."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from appliance.cubevs.base import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17

SYN: Final = 0x02
ACK: Final = 0x10
RST: Final = 0x04
FIN: Final = 0x01


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@dataclass(frozen=True)
class Frame:
    """An IPv4 packet in an Ethernet frame; the defaults are what a well-behaved guest would send."""

    source: IPv4Address = GUEST_ADDRESS
    destination: IPv4Address = GATEWAY_ADDRESS
    protocol: int = UDP
    l4: bytes = b""
    source_mac: str = GUEST_MAC
    destination_mac: str = GATEWAY_MAC
    fragment: int = 0x4000  # do not fragment
    options: bytes = b""
    ttl: int = 64

    def ip(self) -> bytes:
        length = 20 + len(self.options) + len(self.l4)
        start = struct.pack(
            "!BBHHHBBH", 0x45 + len(self.options) // 4, 0, length, 0x1234, self.fragment, self.ttl, self.protocol, 0
        )
        header = start + self.source.packed + self.destination.packed + self.options
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + self.l4

    def pack(self) -> bytes:
        return mac(self.destination_mac) + mac(self.source_mac) + b"\x08\x00" + self.ip()

    def reversed(self) -> Frame:
        """Return an empty frame in the other direction, at the IP level."""
        return replace(self, source=self.destination, destination=self.source)


def udp(
    source: IPv4Address, destination: IPv4Address, sport: int, dport: int, data: bytes, *, summed: bool = True
) -> bytes:
    """Return a UDP datagram; `summed=False` leaves the checksum out (zero)."""
    header = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    total = checksum(_pseudo_header(source, destination, UDP, 8 + len(data)) + header + data) or 0xFFFF
    return header[:6] + struct.pack("!H", total if summed else 0) + data


def tcp(source: IPv4Address, destination: IPv4Address, sport: int, dport: int, flags: int, data: bytes = b"") -> bytes:
    header = struct.pack("!HHIIBBHHH", sport, dport, 1000, 2000, 5 << 4, flags, 65535, 0, 0)
    total = checksum(_pseudo_header(source, destination, TCP, len(header) + len(data)) + header + data)
    return header[:16] + struct.pack("!H", total) + header[18:] + data


def icmp(kind: int, code: int, rest: int, data: bytes = b"") -> bytes:
    """Return an ICMP message; `rest` is the second word (echo: identifier and sequence)."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + data
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def udp_frame(source: IPv4Address, destination: IPv4Address, sport: int, dport: int, data: bytes = b"data") -> Frame:
    return Frame(source=source, destination=destination, l4=udp(source, destination, sport, dport, data))


def tcp_frame(source: IPv4Address, destination: IPv4Address, sport: int, dport: int, flags: int) -> Frame:
    return Frame(source=source, destination=destination, protocol=TCP, l4=tcp(source, destination, sport, dport, flags))


def arp(
    operation: int, sender_mac: str, sender: IPv4Address, target: IPv4Address, *, to: str = "ff:ff:ff:ff:ff:ff"
) -> bytes:
    body = (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac(sender_mac) + sender.packed + bytes(6) + target.packed
    )
    return mac(to) + mac(sender_mac) + b"\x08\x06" + body


@dataclass(frozen=True)
class Parsed:
    """What a test looks at in a frame."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    source_mac: str
    destination_mac: str
    l4: bytes
    checksums_right: bool


def parse(frame: bytes) -> Parsed:
    """Take an IPv4 frame without options apart and verify every checksum in it."""
    ip, l4 = frame[14:34], frame[34:]
    source, destination, protocol = IPv4Address(ip[12:16]), IPv4Address(ip[16:20]), ip[9]
    right = checksum(ip) == 0
    if protocol == ICMP:
        right &= checksum(l4) == 0
    elif not (protocol == UDP and l4[6:8] == b"\0\0"):
        right &= checksum(_pseudo_header(source, destination, protocol, len(l4)) + l4) == 0
    return Parsed(source, destination, protocol, frame[6:12].hex(":"), frame[0:6].hex(":"), l4, right)


def _pseudo_header(source: IPv4Address, destination: IPv4Address, protocol: int, length: int) -> bytes:
    return source.packed + destination.packed + struct.pack("!BBH", 0, protocol, length)
