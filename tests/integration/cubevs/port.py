"""The programs of one tap by hand, one frame at a time: bytes in, verdict, reason and bytes out."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from appliance.cubevs.base import GUEST_ADDRESS, DropReason, Tap
from appliance.cubevs.kernel import open_pin, run_program
from appliance.cubevs.loader import FROM_GUEST, TO_GUEST
from appliance.cubevs.maps import Maps
from tests.support.packets import ACK, ICMP, SYN, Frame, icmp, tcp_frame, udp_frame
from tests.support.sandbox_net import OUTSIDE, Site

PASS: Final = 0
DROP: Final = 2
REDIRECT: Final = 7
NODE = IPv4Address("10.88.0.1")
NEIGHBOUR = IPv4Address("10.88.0.200")
ECHO_REQUEST, ECHO_REPLY, UNREACHABLE = 8, 0, 3


@dataclass(frozen=True)
class Outcome:
    verdict: int
    reason: DropReason | None
    frame: bytes


class Port:
    """The programs of one tap, by hand."""

    def __init__(self, tap: Tap, place: Site, maps: Maps) -> None:
        self.tap = tap
        self.maps = maps
        self.uplink = int(place.node.run("cat", "/sys/class/net/uplink/ifindex"))
        self._context = struct.Struct("=36xII148x")  # ingress_ifindex and ifindex of __sk_buff
        (pins,) = (place.bpffs / "v1" / "programs").iterdir()
        self._programs = {name: os.fdopen(open_pin(pins / name), "rb") for name in (FROM_GUEST, TO_GUEST)}

    def close(self) -> None:
        for program in self._programs.values():
            program.close()

    def from_guest(self, frame: Frame | bytes) -> Outcome:
        return self._run(FROM_GUEST, frame, came_from=self.tap.ifindex)

    def from_node(self, frame: Frame | bytes) -> Outcome:
        return self._run(TO_GUEST, frame, came_from=0)

    def from_outside(self, frame: Frame | bytes) -> Outcome:
        return self._run(TO_GUEST, frame, came_from=self.uplink)

    def answered_arp(self, frame: bytes) -> Outcome:
        return self._run(TO_GUEST, frame, came_from=self.tap.ifindex)

    def passes(self, frame: Frame) -> bool:
        """Does the guest get this frame out? Without the reason, for many frames."""
        context = self._context.pack(self.tap.ifindex, self.tap.ifindex)
        return run_program(self._programs[FROM_GUEST].fileno(), frame.pack(), context=context).verdict == PASS

    def _run(self, program: str, frame: Frame | bytes, *, came_from: int) -> Outcome:
        data = frame.pack() if isinstance(frame, Frame) else frame
        context = self._context.pack(came_from, self.tap.ifindex)
        before = self.maps.drops()
        result = run_program(self._programs[program].fileno(), data, context=context)
        after = self.maps.drops()
        reasons = [reason for reason in DropReason if after[reason] != before[reason]]
        assert len(reasons) == (1 if result.verdict == DROP else 0), "every drop has one reason, nothing else has any"
        return Outcome(result.verdict, reasons[0] if reasons else None, result.frame)


def guest_udp(destination: IPv4Address = OUTSIDE, dport: int = 4000, data: bytes = b"data") -> Frame:
    return udp_frame(GUEST_ADDRESS, destination, 5000, dport, data)


def guest_tcp(destination: IPv4Address = OUTSIDE, *, sport: int = 5000, dport: int = 80, flags: int = SYN) -> Frame:
    return tcp_frame(GUEST_ADDRESS, destination, sport, dport, flags)


def guest_echo(destination: IPv4Address = OUTSIDE, kind: int = ECHO_REQUEST) -> Frame:
    return Frame(destination=destination, protocol=ICMP, l4=icmp(kind, 0, 0x00070001, b"payload"))


def answer(port: Port, proxy_port: int, flags: int = SYN | ACK, dport: int = 5000) -> Frame:
    """Return what the egress proxy answers to the guest's flow from `dport`."""
    return tcp_frame(NODE, port.tap.address, proxy_port, dport, flags)
