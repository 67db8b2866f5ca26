"""Each verdict about what address rules allow and the egress proxy is to see none the less, one frame at a time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from appliance.cubevs import netlink
from appliance.cubevs.base import (
    GATEWAY_ADDRESS,
    GUEST_ADDRESS,
    PROXY_HTTP_PORT,
    PROXY_TCP_PORT,
    PROXY_TLS_PORT,
    DropReason,
    EgressPolicy,
)
from appliance.cubevs.egress import rule_files
from appliance.cubevs.kernel import BpfMap
from appliance.cubevs.maps import Destination, DivertedKey, diverted_pin
from appliance.cubevs.switch import CubeVS
from appliance.domain.egress import HeaderRule, Tunnel
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.port import NEIGHBOUR, NODE, PASS, Port, answer, guest_echo, guest_tcp, guest_udp
from tests.support.packets import ACK, FIN, RST, SYN, Frame, parse, tcp_frame, udp_frame
from tests.support.sandbox_net import ELSEWHERE, METADATA, NODE_UPLINK, OUTSIDE, PRIVATE, Site

pytestmark = pytest.mark.root

EVERYTHING = IPv4Network("0.0.0.0/0")
OTHER = IPv4Address("203.0.113.3")
INSPECTED = EgressPolicy(header_rules=(HeaderRule("example.com", {"X-Key": "secret"}),))
TUNNELLED = EgressPolicy(tunnel=Tunnel("proxy.example.com", 1080))
PROXY_PORTS = {80: PROXY_HTTP_PORT, 443: PROXY_TLS_PORT}


@pytest.fixture
async def inspected(switch: CubeVS, unadmitted: Port) -> Port:
    await switch.admit(unadmitted.tap, new_sandbox_id(), INSPECTED)
    return unadmitted


@pytest.fixture
async def tunnelled(switch: CubeVS, unadmitted: Port) -> Port:
    await switch.admit(unadmitted.tap, new_sandbox_id(), TUNNELLED)
    return unadmitted


def goes_to(port: Port, frame: Frame) -> IPv4Address:
    outcome = port.from_guest(frame)
    assert outcome.verdict == PASS, outcome.reason
    return parse(outcome.frame).destination


def assert_proxied(port: Port, destination: IPv4Address, asked: int, proxy: int) -> None:
    """Show that a whole flow goes to the proxy's port, and comes back from where it was sent."""
    for flags in (SYN, ACK, FIN | ACK):
        diverted = port.from_guest(guest_tcp(destination, dport=asked, flags=flags))
        assert diverted.verdict == PASS, diverted.reason
        sent = parse(diverted.frame)
        assert (sent.source, sent.destination, sent.checksums_right) == (port.tap.address, NODE, True)
        assert sent.l4[:4] == (5000).to_bytes(2, "big") + proxy.to_bytes(2, "big")

        returned = port.from_node(answer(port, proxy, SYN | ACK if flags == SYN else flags))
        assert returned.verdict == PASS, returned.reason
        got = parse(returned.frame)
        assert (got.source, got.destination, got.checksums_right) == (destination, GUEST_ADDRESS, True)
        assert got.l4[:4] == asked.to_bytes(2, "big") + (5000).to_bytes(2, "big")


def told(port: Port, place: Site, proxy_port: int, guest_port: int = 5000) -> Destination | None:
    """Return what the proxy would find for a flow."""
    diverted = BpfMap.open(diverted_pin(place.bpffs), read_only=True)
    found = diverted.get(DivertedKey(port.tap.address, guest_port, proxy_port).pack())
    return None if found is None else Destination.unpack(found)


@pytest.mark.parametrize("asked", [80, 443])
async def test_what_is_inspected_goes_to_the_proxy_which_learns_where_it_was_sent(
    inspected: Port, place: Site, asked: int
) -> None:
    assert_proxied(inspected, OUTSIDE, asked, PROXY_PORTS[asked])
    assert told(inspected, place, PROXY_PORTS[asked]) == Destination(OUTSIDE, asked)


@pytest.mark.parametrize(
    "frame", [guest_tcp(dport=22), guest_tcp(dport=8080), guest_udp(dport=443), guest_udp(dport=80), guest_echo()]
)
async def test_what_is_no_http_and_no_tls_is_not_inspected(inspected: Port, frame: Frame) -> None:
    assert goes_to(inspected, frame) == OUTSIDE


@pytest.mark.parametrize("policy", [INSPECTED, TUNNELLED], ids=["inspected", "tunnelled"])
@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (guest_tcp(METADATA, dport=80), DropReason.DENIED_NETWORK),
        (guest_tcp(METADATA, dport=8080), DropReason.DENIED_NETWORK),
        (guest_tcp(NEIGHBOUR, dport=443), DropReason.TO_SANDBOX),
        (guest_tcp(NODE, dport=443), DropReason.TO_HOST),
        (guest_tcp(NODE, dport=PROXY_TLS_PORT), DropReason.TO_HOST),
        (guest_tcp(NODE, dport=PROXY_TCP_PORT), DropReason.TO_HOST),
        (guest_tcp(NODE_UPLINK, dport=443), DropReason.TO_HOST),
        (guest_tcp(GATEWAY_ADDRESS, dport=443), DropReason.TO_HOST),
        (guest_tcp(GATEWAY_ADDRESS, dport=53), DropReason.TO_HOST),
        (guest_tcp(GATEWAY_ADDRESS, dport=PROXY_TCP_PORT), DropReason.TO_HOST),
        (guest_tcp(OTHER, dport=443), DropReason.POLICY),
        (guest_tcp(OTHER, dport=80), DropReason.POLICY),
        (guest_tcp(OTHER, dport=22), DropReason.POLICY),
        (guest_udp(OTHER, 443), DropReason.POLICY),
    ],
)
async def test_nothing_passes_that_the_addresses_do_not_allow(
    switch: CubeVS, unadmitted: Port, policy: EgressPolicy, frame: Frame, reason: DropReason
) -> None:
    await switch.admit(unadmitted.tap, new_sandbox_id(), replace(policy, deny=(IPv4Network(OTHER),)))
    assert unadmitted.from_guest(frame).reason is reason


async def test_without_internet_only_what_is_listed_is_inspected(switch: CubeVS, unadmitted: Port) -> None:
    policy = replace(INSPECTED, allow_internet=False, allow=(IPv4Network(OUTSIDE),))
    await switch.admit(unadmitted.tap, new_sandbox_id(), policy)
    assert goes_to(unadmitted, guest_tcp(OUTSIDE, dport=443)) == NODE
    assert unadmitted.from_guest(guest_tcp(OTHER, dport=443)).reason is DropReason.POLICY
    assert unadmitted.from_guest(guest_udp(GATEWAY_ADDRESS, 53)).reason is DropReason.POLICY


async def test_an_open_flow_is_not_inspected_and_a_new_one_is(switch: CubeVS, port: Port) -> None:
    assert goes_to(port, guest_tcp(dport=443)) == OUTSIDE
    await switch.admit(port.tap, new_sandbox_id(), INSPECTED)
    assert goes_to(port, guest_tcp(dport=443, flags=ACK)) == OUTSIDE
    assert port.from_outside(tcp_frame(OUTSIDE, port.tap.address, 443, 5000, ACK)).verdict == PASS
    assert goes_to(port, guest_tcp(dport=443, sport=5001)) == NODE


async def test_all_tcp_goes_to_the_tunnel_and_comes_back_from_where_it_was_sent(
    switch: CubeVS, tunnelled: Port, place: Site
) -> None:
    for asked in (80, 443, 22, 8080, PROXY_TCP_PORT):
        proxy = PROXY_PORTS.get(asked, PROXY_TCP_PORT)
        assert_proxied(tunnelled, OUTSIDE, asked, proxy)
        assert told(tunnelled, place, proxy) == Destination(OUTSIDE, asked)


@pytest.mark.parametrize("frame", [guest_udp(), guest_udp(dport=443), guest_echo()])
async def test_what_is_no_tcp_is_not_tunnelled(tunnelled: Port, frame: Frame) -> None:
    assert goes_to(tunnelled, frame) == OUTSIDE


async def test_nothing_is_left_of_a_flow_past_a_tunnel(switch: CubeVS, port: Port) -> None:
    for asked in (22, 443):
        assert goes_to(port, guest_tcp(dport=asked)) == OUTSIDE
    assert goes_to(port, guest_udp()) == OUTSIDE
    await switch.admit(port.tap, new_sandbox_id(), TUNNELLED)
    for asked in (22, 443):
        assert port.from_guest(guest_tcp(dport=asked, flags=ACK)).reason is DropReason.POLICY
        came_back = tcp_frame(OUTSIDE, port.tap.address, asked, 5000, ACK)
        assert port.from_outside(came_back).reason is DropReason.POLICY
    assert port.from_outside(udp_frame(OUTSIDE, port.tap.address, 4000, 5000)).verdict == PASS


async def test_the_nodes_own_flows_to_a_guest_pass_no_tunnel(tunnelled: Port) -> None:
    assert tunnelled.from_node(tcp_frame(NODE, tunnelled.tap.address, 40000, 49983, SYN)).verdict == PASS
    assert goes_to(tunnelled, guest_tcp(NODE, sport=49983, dport=40000, flags=SYN | ACK)) == NODE


async def test_one_port_of_the_guest_has_one_flow_in_the_tunnel(tunnelled: Port, place: Site) -> None:
    assert tunnelled.from_guest(guest_tcp(OUTSIDE, dport=22)).verdict == PASS
    assert tunnelled.from_guest(guest_tcp(OTHER, dport=22)).reason is DropReason.PROXY_PORT_TAKEN
    assert tunnelled.from_guest(guest_tcp(OUTSIDE, dport=23)).reason is DropReason.PROXY_PORT_TAKEN
    assert tunnelled.from_guest(guest_tcp(OUTSIDE, dport=23, flags=ACK)).reason is DropReason.POLICY
    assert told(tunnelled, place, PROXY_TCP_PORT) == Destination(OUTSIDE, 22)
    assert tunnelled.from_guest(guest_tcp(OUTSIDE, dport=443)).verdict == PASS, "another port of the proxy"
    assert tunnelled.from_guest(guest_tcp(OUTSIDE, dport=22, flags=RST)).verdict == PASS
    assert tunnelled.from_guest(guest_tcp(OUTSIDE, dport=23)).verdict == PASS
    assert told(tunnelled, place, PROXY_TCP_PORT) == Destination(OUTSIDE, 23)
    assert parse(tunnelled.from_node(answer(tunnelled, PROXY_TCP_PORT)).frame).l4[:2] == (23).to_bytes(2, "big")


async def test_domains_and_a_tunnel_divert_each_their_own(switch: CubeVS, unadmitted: Port) -> None:
    policy = replace(TUNNELLED, deny=(EVERYTHING,), allow=(IPv4Network(OUTSIDE),), allow_domains=("example.com",))
    await switch.admit(unadmitted.tap, new_sandbox_id(), policy)
    assert goes_to(unadmitted, guest_tcp(OUTSIDE, dport=22)) == NODE
    assert goes_to(unadmitted, guest_tcp(OUTSIDE, dport=443)) == NODE
    assert goes_to(unadmitted, guest_tcp(OTHER, sport=5001, dport=443)) == NODE
    assert unadmitted.from_guest(guest_tcp(OTHER, sport=5001, dport=22)).reason is DropReason.POLICY


async def test_of_a_proxy_that_is_needed_no_more_a_guest_gets_resets_only(switch: CubeVS, tunnelled: Port) -> None:
    assert tunnelled.from_guest(guest_tcp(dport=22)).verdict == PASS
    await switch.admit(tunnelled.tap, new_sandbox_id(), EgressPolicy())
    assert tunnelled.from_node(answer(tunnelled, PROXY_TCP_PORT, ACK)).reason is DropReason.POLICY
    reset = tunnelled.from_node(answer(tunnelled, PROXY_TCP_PORT, RST))
    assert reset.verdict == PASS
    assert (parse(reset.frame).source, parse(reset.frame).l4[:2]) == (OUTSIDE, (22).to_bytes(2, "big"))
    await switch.revoke(tunnelled.tap)
    assert tunnelled.from_node(answer(tunnelled, PROXY_TCP_PORT, RST)).reason is DropReason.NOT_FROM_HOST


NETWORKS = tuple(map(IPv4Network, ("203.0.113.0/24", "203.0.113.2/32", "203.0.113.2/31", "0.0.0.0/1", "10.0.0.0/8")))
ADDRESSES = (OUTSIDE, OTHER, ELSEWHERE, METADATA, PRIVATE, NEIGHBOUR, NODE, NODE_UPLINK, IPv4Address("93.184.216.34"))


@pytest.mark.parametrize("allow_internet", [True, False])
async def test_the_proxy_decides_about_addresses_as_the_programs_do(
    switch: CubeVS, unadmitted: Port, place: Site, *, allow_internet: bool
) -> None:
    node_addresses = await netlink.local_addresses()
    ports = itertools.count(10000)
    for allow, deny in itertools.product([(), *itertools.combinations(NETWORKS, 1), NETWORKS[1:3]], repeat=2):
        policy = replace(TUNNELLED, allow_internet=allow_internet, allow=allow, deny=deny)
        await switch.admit(unadmitted.tap, new_sandbox_id(), policy)
        rules = rule_files.read(place.egress_rules, unadmitted.tap.address)
        assert rules is not None
        for address in ADDRESSES:
            by_programs = unadmitted.passes(guest_tcp(address, sport=next(ports), dport=22))
            assert by_programs is rules.allows_by_address(address, node_addresses=node_addresses), (policy, address)


@pytest.mark.parametrize("proxy_port", [PROXY_HTTP_PORT, PROXY_TLS_PORT, PROXY_TCP_PORT])
async def test_the_proxy_opens_no_flow_to_a_guest(tunnelled: Port, proxy_port: int) -> None:
    assert tunnelled.from_node(answer(tunnelled, proxy_port, SYN)).reason is DropReason.NOT_FROM_HOST
    assert tunnelled.from_node(answer(tunnelled, proxy_port)).reason is DropReason.NOT_FROM_HOST


@pytest.mark.parametrize("policy", [EgressPolicy(), EgressPolicy(deny=(EVERYTHING,), allow_domains=("example.com",))])
async def test_names_may_be_denied_apart_and_at_once(switch: CubeVS, unadmitted: Port, policy: EgressPolicy) -> None:
    asked = guest_udp(GATEWAY_ADDRESS, 53)
    answered = udp_frame(NODE, unadmitted.tap.address, 53, 5000)
    await switch.admit(unadmitted.tap, new_sandbox_id(), policy)
    assert goes_to(unadmitted, asked) == NODE
    await switch.admit(unadmitted.tap, new_sandbox_id(), replace(policy, name_service=False))
    assert unadmitted.from_node(answered).reason is DropReason.POLICY
    assert unadmitted.from_guest(asked).reason is DropReason.POLICY
    await switch.admit(unadmitted.tap, new_sandbox_id(), policy)
    assert goes_to(unadmitted, asked) == NODE
    assert unadmitted.from_node(answered).verdict == PASS
