"""Each verdict of the programs, one frame at a time, by BPF_PROG_TEST_RUN: bytes in, verdict, reason and bytes out."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from appliance.cubevs.base import (
    GATEWAY_ADDRESS,
    GATEWAY_MAC,
    GUEST_ADDRESS,
    GUEST_MAC,
    PROXY_HTTP_PORT,
    PROXY_TLS_PORT,
    DropReason,
    EgressPolicy,
)
from appliance.cubevs.maps import ONLY_KEY, Closed, Config, Opener, Session, SessionKey
from appliance.cubevs.switch import CubeVS
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.port import (
    DROP,
    ECHO_REPLY,
    ECHO_REQUEST,
    NEIGHBOUR,
    NODE,
    PASS,
    REDIRECT,
    UNREACHABLE,
    Port,
    guest_echo,
    guest_tcp,
    guest_udp,
)
from tests.support.packets import (
    ACK,
    ICMP,
    RST,
    SYN,
    TCP,
    UDP,
    Frame,
    arp,
    checksum,
    icmp,
    mac,
    parse,
    tcp_frame,
    udp,
    udp_frame,
)
from tests.support.sandbox_net import METADATA, NODE_UPLINK, OUTSIDE

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    "frame",
    [guest_tcp(), guest_echo(), *(guest_udp(data=b"x" * size) for size in (0, 1, 2, 1399, 1400))],
    ids=["tcp", "icmp", "udp0", "udp1", "udp2", "udp1399", "udp1400"],
)
async def test_what_a_guest_sends_leaves_with_the_taps_address(port: Port, frame: Frame) -> None:
    outcome = port.from_guest(frame)
    assert outcome.verdict == PASS
    sent = parse(outcome.frame)
    assert (sent.source, sent.destination) == (port.tap.address, OUTSIDE)
    assert sent.checksums_right
    assert sent.l4[:4] == frame.l4[:4] or frame.protocol == ICMP


async def test_an_absent_udp_checksum_stays_absent(port: Port) -> None:
    frame = Frame(destination=OUTSIDE, l4=udp(GUEST_ADDRESS, OUTSIDE, 1, 2, b"data", summed=False))
    outcome = port.from_guest(frame)
    assert outcome.verdict == PASS
    assert parse(outcome.frame).l4[6:8] == b"\0\0"


REFUSED: dict[str, tuple[Frame | bytes, DropReason]] = {
    "runt": (b"\0" * 14, DropReason.SPOOFED_MAC),
    "header only": (guest_udp().pack()[:34], DropReason.TRUNCATED),
    "tcp cut": (replace(guest_tcp(), l4=guest_tcp().l4[:19]), DropReason.TRUNCATED),
    "udp cut": (replace(guest_udp(), l4=guest_udp().l4[:7]), DropReason.TRUNCATED),
    "icmp cut": (replace(guest_echo(), l4=guest_echo().l4[:7]), DropReason.TRUNCATED),
    "longer than the frame": (guest_udp(data=b"x" * 100).pack()[:-1], DropReason.TRUNCATED),
    "ipv6": (mac(GATEWAY_MAC) + mac(GUEST_MAC) + b"\x86\xdd" + b"\x60" + bytes(59), DropReason.NOT_IPV4),
    "ipv6 in an ipv4 frame": (
        mac(GATEWAY_MAC) + mac(GUEST_MAC) + b"\x08\x00" + b"\x65" + bytes(59),
        DropReason.NOT_IPV4,
    ),
    "vlan": (
        mac(GATEWAY_MAC) + mac(GUEST_MAC) + b"\x81\x00\x00\x01" + guest_udp().pack()[12:],
        DropReason.NOT_IPV4,
    ),
    "lldp": (mac("01:80:c2:00:00:0e") + mac(GUEST_MAC) + b"\x88\xcc" + bytes(60), DropReason.NOT_IPV4),
    "other source mac": (replace(guest_udp(), source_mac="02:fc:00:00:00:07"), DropReason.SPOOFED_MAC),
    "gateway's mac as source": (replace(guest_udp(), source_mac=GATEWAY_MAC), DropReason.SPOOFED_MAC),
    "other destination mac": (replace(guest_udp(), destination_mac="02:fc:00:00:00:07"), DropReason.NOT_TO_GATEWAY),
    "broadcast": (replace(guest_udp(), destination_mac="ff:ff:ff:ff:ff:ff"), DropReason.NOT_TO_GATEWAY),
    "gateway's address as source": (replace(guest_udp(), source=GATEWAY_ADDRESS), DropReason.SPOOFED_ADDRESS),
    "another sandbox's address as source": (replace(guest_udp(), source=NEIGHBOUR), DropReason.SPOOFED_ADDRESS),
    "dhcp": (replace(guest_udp(), source=IPv4Address(0)), DropReason.SPOOFED_ADDRESS),
    "first fragment": (replace(guest_udp(), fragment=0x2000), DropReason.FRAGMENT),
    "last fragment": (replace(guest_udp(), fragment=0x0001), DropReason.FRAGMENT),
    "options": (replace(guest_udp(), options=b"\x94\x04\0\0"), DropReason.IP_OPTIONS),
    **{
        f"protocol {number}": (replace(guest_udp(), protocol=number), DropReason.UNSUPPORTED_PROTOCOL)
        for number in (0, 2, 4, 41, 47, 50, 58, 132, 255)
    },
    "icmp redirect": (guest_echo(kind=5), DropReason.UNSUPPORTED_PROTOCOL),
    "unasked echo reply": (guest_echo(kind=ECHO_REPLY), DropReason.UNSUPPORTED_PROTOCOL),
    "another sandbox": (guest_tcp(NEIGHBOUR), DropReason.TO_SANDBOX),
    "network's last address": (guest_udp(IPv4Address("10.88.255.255")), DropReason.TO_SANDBOX),
    "node": (guest_tcp(NODE, dport=22), DropReason.TO_HOST),
    "node's uplink": (guest_tcp(NODE_UPLINK, dport=22), DropReason.TO_HOST),
    "ping of the node": (guest_echo(NODE), DropReason.TO_HOST),
    "gateway": (guest_tcp(GATEWAY_ADDRESS, dport=80), DropReason.TO_HOST),
    "proxy": (guest_tcp(NODE, dport=PROXY_TLS_PORT), DropReason.TO_HOST),
    "proxy at the gateway": (guest_tcp(GATEWAY_ADDRESS, dport=PROXY_HTTP_PORT), DropReason.TO_HOST),
    "broadcast of the uplink": (guest_udp(IPv4Address("203.0.113.255")), DropReason.TO_HOST),
    **{
        str(address): (guest_udp(IPv4Address(address)), DropReason.DENIED_NETWORK)
        for address in (
            METADATA,
            "168.63.129.16",
            "100.100.100.200",
            "0.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "224.0.0.251",
            "239.255.255.250",
            "255.255.255.255",
            str(GUEST_ADDRESS),
        )
    },
    "127.0.0.1": (guest_udp(IPv4Address("127.0.0.1")), DropReason.TO_HOST),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_a_guest_may_not_send(port: Port, case: str) -> None:
    frame, reason = REFUSED[case]
    outcome = port.from_guest(frame)
    assert (outcome.verdict, outcome.reason) == (DROP, reason)


@pytest.mark.parametrize(
    "frame", [guest_udp(), guest_tcp(), guest_echo(), guest_udp(GATEWAY_ADDRESS, 53), guest_udp(NODE)]
)
async def test_an_unadmitted_guest_opens_nothing(unadmitted: Port, frame: Frame) -> None:
    assert unadmitted.from_guest(frame).reason is DropReason.NOT_ADMITTED


async def test_random_sources_never_pass(port: Port) -> None:
    chance = random.Random(7)
    own = mac(GUEST_MAC) + GUEST_ADDRESS.packed
    for _ in range(5000):
        source = chance.randbytes(10) if chance.random() < 0.5 else bytearray(own)
        if isinstance(source, bytearray):
            source[chance.randrange(10)] ^= 1 << chance.randrange(8)
        frame = replace(guest_udp(), source_mac=source[:6].hex(":"), source=IPv4Address(bytes(source[6:])))
        assert not port.passes(frame)


async def test_nothing_passes_before_the_switch_is_configured(switch: CubeVS, port: Port) -> None:
    port.maps.config.put(ONLY_KEY, bytes(Config.LAYOUT.size))
    try:
        assert port.from_guest(guest_udp()).reason is DropReason.UNCONFIGURED
        assert port.from_node(udp_frame(NODE, port.tap.address, 1, 2)).reason is DropReason.UNCONFIGURED
    finally:
        await switch.start()
    assert port.from_guest(guest_udp()).verdict == PASS


def test_tap_entry_is_needed(port: Port) -> None:
    other = replace(port.tap, ifindex=port.uplink)
    port.tap = other
    assert port.from_guest(guest_udp()).reason is DropReason.UNCONFIGURED
    assert port.from_node(guest_udp()).reason is DropReason.UNCONFIGURED


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
async def test_answers_come_back_and_nothing_else(port: Port, protocol: int) -> None:
    asked = {TCP: guest_tcp(sport=5000, dport=80), UDP: guest_udp(dport=80), ICMP: guest_echo()}[protocol]
    address = port.tap.address

    def answer(source: IPv4Address, sport: int = 80) -> Frame:
        return {
            TCP: tcp_frame(source, address, sport, 5000, SYN | ACK),
            UDP: udp_frame(source, address, sport, 5000),
            ICMP: Frame(source, address, ICMP, icmp(ECHO_REPLY, 0, 0x00070001 if sport == 80 else 0x00080001)),
        }[protocol]

    assert port.from_outside(answer(OUTSIDE)).reason is DropReason.NOT_FROM_HOST
    assert port.from_guest(asked).verdict == PASS
    arrived = port.from_outside(answer(OUTSIDE))
    assert arrived.verdict == PASS
    assert (parse(arrived.frame).source, parse(arrived.frame).destination) == (OUTSIDE, GUEST_ADDRESS)
    assert parse(arrived.frame).checksums_right
    assert port.from_outside(answer(OUTSIDE, sport=81)).reason is DropReason.NOT_FROM_HOST
    assert port.from_outside(answer(IPv4Address("203.0.113.3"))).reason is DropReason.NOT_FROM_HOST


async def test_an_outside_ping_is_no_answer_to_a_ping(port: Port) -> None:
    port.from_guest(guest_echo())
    ping = Frame(OUTSIDE, port.tap.address, ICMP, icmp(ECHO_REQUEST, 0, 0x00070001))
    assert port.from_outside(ping).reason is DropReason.NOT_FROM_HOST


async def test_answers_stop_with_the_admission(switch: CubeVS, port: Port) -> None:
    assert port.from_guest(guest_udp()).verdict == PASS
    await switch.revoke(port.tap)
    assert port.from_outside(udp_frame(OUTSIDE, port.tap.address, 4000, 5000)).reason is DropReason.NOT_FROM_HOST
    assert port.from_guest(guest_udp()).reason is DropReason.NOT_ADMITTED


async def test_the_node_opens_flows_and_only_their_answers_pass(unadmitted: Port) -> None:
    port = unadmitted
    arrived = port.from_node(tcp_frame(NODE, port.tap.address, 40000, 49983, SYN))
    assert arrived.verdict == PASS
    assert parse(arrived.frame).destination == GUEST_ADDRESS
    assert parse(arrived.frame).checksums_right

    answered = port.from_guest(guest_tcp(NODE, sport=49983, dport=40000, flags=SYN | ACK))
    assert answered.verdict == PASS
    assert (parse(answered.frame).source, parse(answered.frame).destination) == (port.tap.address, NODE)
    assert parse(answered.frame).checksums_right

    again = port.from_guest(guest_tcp(NODE, sport=49983, dport=40000, flags=SYN))
    assert again.reason is DropReason.TO_HOST, "an answer never begins a connection"
    assert port.from_guest(guest_tcp(NODE, sport=49983, dport=40001, flags=ACK)).reason is DropReason.NOT_ADMITTED
    assert port.from_guest(guest_tcp(NODE, sport=49984, dport=40000, flags=ACK)).reason is DropReason.NOT_ADMITTED


async def test_a_node_ping_is_answered_once_asked(unadmitted: Port) -> None:
    reply = guest_echo(NODE, kind=ECHO_REPLY)
    assert unadmitted.from_guest(reply).reason is DropReason.NOT_ADMITTED
    ping = Frame(NODE, unadmitted.tap.address, ICMP, icmp(ECHO_REQUEST, 0, 0x00070001))
    assert unadmitted.from_node(ping).verdict == PASS
    assert unadmitted.from_guest(reply).verdict == PASS
    assert unadmitted.from_guest(guest_echo(NODE)).reason is DropReason.TO_HOST


@pytest.mark.parametrize(
    ("closed", "idle_s", "passes"),
    [(Closed(0), 179, True), (Closed(0), 181, False)],
)
async def test_the_nodes_silence_closes_its_port_to_the_guest(
    unadmitted: Port, closed: Closed, idle_s: int, *, passes: bool
) -> None:
    seen_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - idle_s * 10**9
    sessions = unadmitted.maps.sessions_of(unadmitted.tap.ifindex)
    assert sessions is not None
    key = SessionKey(NODE, 5000, 40000, socket.IPPROTO_UDP)
    sessions.put(key.pack(), Session(seen_ns, Opener.NODE, closed).pack())
    assert (unadmitted.from_guest(guest_udp(NODE, 40000)).verdict == PASS) is passes
    found = sessions.get(key.pack())
    assert found is not None
    assert Session.unpack(found).seen_ns == seen_ns, "a guest does not prolong what the node opened"


async def test_a_reset_is_remembered(port: Port) -> None:
    port.from_guest(guest_tcp())
    port.from_outside(tcp_frame(OUTSIDE, port.tap.address, 80, 5000, RST))
    sessions = port.maps.sessions_of(port.tap.ifindex)
    assert sessions is not None
    found = sessions.get(SessionKey(OUTSIDE, 5000, 80, TCP).pack())
    assert found is not None
    assert Closed.RESET in Session.unpack(found).closed


async def test_dns_goes_to_the_node_and_comes_back_from_the_gateway(port: Port) -> None:
    asked = port.from_guest(guest_udp(GATEWAY_ADDRESS, 53))
    assert asked.verdict == PASS
    sent = parse(asked.frame)
    assert (sent.source, sent.destination, sent.checksums_right) == (port.tap.address, NODE, True)

    answered = port.from_node(udp_frame(NODE, port.tap.address, 53, 5000))
    assert answered.verdict == PASS
    got = parse(answered.frame)
    assert (got.source, got.destination, got.checksums_right) == (GATEWAY_ADDRESS, GUEST_ADDRESS, True)

    assert port.from_node(udp_frame(NODE, port.tap.address, 53, 5001)).reason is DropReason.NOT_FROM_HOST
    assert port.from_guest(guest_udp(NODE, 53)).reason is DropReason.TO_HOST, "only the gateway is asked"
    assert port.from_guest(guest_tcp(GATEWAY_ADDRESS, dport=53)).reason is DropReason.TO_HOST, "and not by TCP"


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
async def test_an_icmp_error_is_translated_inside_and_out(port: Port, protocol: int) -> None:
    sent = {TCP: guest_tcp(), UDP: guest_udp(), ICMP: guest_echo()}[protocol]
    left = port.from_guest(sent)
    router = IPv4Address("198.51.100.1")
    quoted = left.frame[14 : 14 + 28]
    error = Frame(router, port.tap.address, ICMP, icmp(UNREACHABLE, 4, 1400, quoted))
    arrived = port.from_outside(error)
    assert arrived.verdict == PASS
    got = parse(arrived.frame)
    assert (got.source, got.destination, got.checksums_right) == (router, GUEST_ADDRESS, True)
    inner = got.l4[8:28]
    assert IPv4Address(inner[12:16]) == GUEST_ADDRESS
    assert checksum(inner) == 0

    unknown = bytearray(quoted)
    unknown[19] ^= 1  # about a flow to somewhere else
    error = Frame(router, port.tap.address, ICMP, icmp(UNREACHABLE, 4, 1400, bytes(unknown)))
    assert port.from_outside(error).reason is DropReason.NOT_FROM_HOST


async def test_a_guests_icmp_error_reaches_the_node_about_its_own_flow_only(unadmitted: Port) -> None:
    delivered = unadmitted.from_node(udp_frame(NODE, unadmitted.tap.address, 40000, 9))
    quoted = delivered.frame[14 : 14 + 28]
    error = Frame(destination=NODE, protocol=ICMP, l4=icmp(UNREACHABLE, 3, 0, quoted))
    arrived = unadmitted.from_guest(error)
    assert arrived.verdict == PASS
    got = parse(arrived.frame)
    assert (got.source, got.destination, got.checksums_right) == (unadmitted.tap.address, NODE, True)
    assert IPv4Address(got.l4[8:28][16:20]) == unadmitted.tap.address
    assert checksum(got.l4[8:28]) == 0

    for forged in (
        replace(error, destination=NODE_UPLINK),
        replace(error, l4=icmp(UNREACHABLE, 3, 0, udp_frame(NODE, GUEST_ADDRESS, 40001, 9).ip()[:28])),
        replace(error, l4=icmp(UNREACHABLE, 3, 0, udp_frame(NODE, NEIGHBOUR, 40000, 9).ip()[:28])),
    ):
        assert unadmitted.from_guest(forged).reason is DropReason.TO_HOST


async def test_a_guest_sends_no_icmp_errors_outside(port: Port) -> None:
    assert port.from_guest(guest_udp()).verdict == PASS
    quoted = udp_frame(OUTSIDE, GUEST_ADDRESS, 4000, 5000).ip()[:28]
    error = Frame(destination=OUTSIDE, protocol=ICMP, l4=icmp(UNREACHABLE, 3, 0, quoted))
    assert port.from_guest(error).reason is DropReason.TO_HOST


async def test_the_gateway_answers_arp(unadmitted: Port) -> None:
    asked = unadmitted.from_guest(arp(1, GUEST_MAC, GUEST_ADDRESS, GATEWAY_ADDRESS))
    assert asked.verdict == REDIRECT
    reply = asked.frame
    assert reply[:12] == mac(GUEST_MAC) + mac(GATEWAY_MAC)
    assert reply[20:22] == b"\0\2"
    assert reply[22:32] == mac(GATEWAY_MAC) + GATEWAY_ADDRESS.packed
    assert reply[32:42] == mac(GUEST_MAC) + GUEST_ADDRESS.packed
    assert unadmitted.answered_arp(reply).verdict == PASS
    assert unadmitted.from_outside(reply).reason is DropReason.ARP_REFUSED


@pytest.mark.parametrize(
    "frame",
    [
        arp(1, GUEST_MAC, GUEST_ADDRESS, IPv4Address("169.254.0.23")),
        arp(1, GUEST_MAC, GUEST_ADDRESS, GUEST_ADDRESS),
        arp(1, GUEST_MAC, NEIGHBOUR, GATEWAY_ADDRESS),
        arp(2, GUEST_MAC, GATEWAY_ADDRESS, GUEST_ADDRESS),
        mac(GATEWAY_MAC) + mac(GUEST_MAC) + arp(1, "02:fc:00:00:00:07", GUEST_ADDRESS, GATEWAY_ADDRESS)[12:],
    ],
    ids=["another's", "own", "as another", "reply", "other sender mac"],
)
async def test_other_arp_is_refused(port: Port, frame: bytes) -> None:
    assert port.from_guest(frame).reason is DropReason.ARP_REFUSED


async def test_what_may_not_go_to_a_guest(port: Port) -> None:
    address = port.tap.address
    assert port.from_node(arp(1, GATEWAY_MAC, NODE, address)).reason is DropReason.ARP_REFUSED
    assert port.from_node(udp_frame(NODE, NEIGHBOUR, 1, 2)).reason is DropReason.NOT_FROM_HOST
    assert port.from_node(udp_frame(NODE, GUEST_ADDRESS, 1, 2)).reason is DropReason.NOT_FROM_HOST
    ipv6 = mac(GUEST_MAC) + mac(GATEWAY_MAC) + b"\x86\xdd" + b"\x60" + bytes(59)
    assert port.from_node(ipv6).reason is DropReason.NOT_IPV4
    assert port.from_node(replace(udp_frame(NODE, address, 1, 2), fragment=0x2000)).reason is DropReason.FRAGMENT
    assert port.from_outside(tcp_frame(OUTSIDE, address, 1, 22, SYN)).reason is DropReason.NOT_FROM_HOST
    assert port.from_outside(udp_frame(NODE, address, 40000, 9)).reason is DropReason.NOT_FROM_HOST, (
        "claims to be the node"
    )


async def test_policy_is_per_tap(switch: CubeVS, port: Port, make_port: Callable[[], Awaitable[Port]]) -> None:
    other = await make_port()
    await switch.admit(other.tap, new_sandbox_id(), EgressPolicy(allow_internet=False, allow=(IPv4Network(OUTSIDE),)))
    elsewhere = IPv4Address("203.0.113.3")
    assert other.from_guest(guest_udp(OUTSIDE)).verdict == PASS
    assert other.from_guest(guest_udp(elsewhere)).reason is DropReason.POLICY
    assert port.from_guest(guest_udp(elsewhere)).verdict == PASS
    await switch.admit(other.tap, new_sandbox_id(), EgressPolicy(deny=(IPv4Network(OUTSIDE),)))
    assert other.from_guest(guest_udp(OUTSIDE)).reason is DropReason.POLICY
    assert other.from_guest(guest_udp(elsewhere)).verdict == PASS


async def test_a_flood_of_flows_evicts_only_its_own(
    switch: CubeVS, port: Port, make_port: Callable[[], Awaitable[Port]]
) -> None:
    other = await make_port()
    await switch.admit(other.tap, new_sandbox_id(), EgressPolicy())
    assert other.from_guest(guest_udp()).verdict == PASS
    for sport in range(6000):
        assert port.passes(udp_frame(GUEST_ADDRESS, OUTSIDE, 1024 + sport, 53))
    own = port.maps.sessions_of(port.tap.ifindex)
    assert own is not None
    assert len(set(own.keys())) <= 4096
    assert other.from_outside(udp_frame(OUTSIDE, other.tap.address, 4000, 5000)).verdict == PASS
