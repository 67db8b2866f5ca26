"""Each verdict of the programs under a policy by domain, one frame at a time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from appliance.cubevs.base import (
    GATEWAY_ADDRESS,
    GUEST_ADDRESS,
    PROXY_HTTP_PORT,
    PROXY_TLS_PORT,
    DropReason,
    EgressPolicy,
)
from appliance.cubevs.maps import Closed, Opener, Session, SessionKey
from appliance.cubevs.switch import CubeVS
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.port import (
    NEIGHBOUR,
    NODE,
    PASS,
    UNREACHABLE,
    Port,
    answer,
    guest_echo,
    guest_tcp,
    guest_udp,
)
from tests.support.packets import ACK, FIN, ICMP, RST, SYN, TCP, Frame, icmp, parse, tcp_frame, udp_frame
from tests.support.sandbox_net import METADATA, NODE_UPLINK, OUTSIDE, PRIVATE

pytestmark = pytest.mark.root

EVERYTHING = IPv4Network("0.0.0.0/0")
BY_DOMAIN = EgressPolicy(deny=(EVERYTHING,), allow_domains=("example.com",))
OTHER = IPv4Address("203.0.113.3")


@pytest.fixture
async def by_domain(switch: CubeVS, unadmitted: Port) -> Port:
    await switch.admit(unadmitted.tap, new_sandbox_id(), BY_DOMAIN)
    return unadmitted


@pytest.mark.parametrize(("asked", "proxy"), [(80, PROXY_HTTP_PORT), (443, PROXY_TLS_PORT)])
@pytest.mark.parametrize("destination", [OUTSIDE, METADATA, PRIVATE])
async def test_http_and_tls_go_to_the_proxy_and_come_back_from_where_they_were_sent(
    by_domain: Port, destination: IPv4Address, asked: int, proxy: int
) -> None:
    for flags in (SYN, ACK, FIN | ACK):
        diverted = by_domain.from_guest(guest_tcp(destination, dport=asked, flags=flags))
        assert diverted.verdict == PASS
        sent = parse(diverted.frame)
        assert (sent.source, sent.destination, sent.checksums_right) == (by_domain.tap.address, NODE, True)
        assert sent.l4[:4] == (5000).to_bytes(2, "big") + proxy.to_bytes(2, "big")

        returned = by_domain.from_node(answer(by_domain, proxy, SYN | ACK if flags == SYN else flags))
        assert returned.verdict == PASS
        got = parse(returned.frame)
        assert (got.source, got.destination, got.checksums_right) == (destination, GUEST_ADDRESS, True)
        assert got.l4[:4] == asked.to_bytes(2, "big") + (5000).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (guest_tcp(dport=22), DropReason.POLICY),
        (guest_tcp(dport=8080), DropReason.POLICY),
        (guest_tcp(dport=53), DropReason.POLICY),
        (guest_tcp(dport=853), DropReason.POLICY),
        (guest_tcp(METADATA, dport=8080), DropReason.DENIED_NETWORK),
        (guest_udp(dport=443), DropReason.POLICY),
        (guest_udp(dport=80), DropReason.POLICY),
        (guest_udp(dport=53), DropReason.POLICY),
        (guest_echo(), DropReason.POLICY),
        (guest_tcp(NEIGHBOUR, dport=443), DropReason.TO_SANDBOX),
        (guest_tcp(NODE, dport=443), DropReason.TO_HOST),
        (guest_tcp(NODE, dport=PROXY_TLS_PORT), DropReason.TO_HOST),
        (guest_tcp(NODE, dport=PROXY_HTTP_PORT), DropReason.TO_HOST),
        (guest_tcp(NODE_UPLINK, dport=443), DropReason.TO_HOST),
        (guest_tcp(GATEWAY_ADDRESS, dport=443), DropReason.TO_HOST),
        (guest_tcp(IPv4Address("127.0.0.1"), dport=443), DropReason.TO_HOST),
        (guest_tcp(GATEWAY_ADDRESS, dport=PROXY_TLS_PORT), DropReason.TO_HOST),
        (guest_tcp(OUTSIDE, dport=PROXY_TLS_PORT), DropReason.POLICY),
        (guest_tcp(dport=443, flags=ACK), DropReason.POLICY),
        (guest_tcp(dport=443, flags=SYN | ACK), DropReason.POLICY),
        (guest_tcp(dport=443, flags=RST), DropReason.POLICY),
    ],
)
async def test_nothing_else_leaves(by_domain: Port, frame: Frame, reason: DropReason) -> None:
    assert by_domain.from_guest(frame).reason is reason


async def test_the_proxys_ports_stay_closed_beside_a_flow_that_was_diverted_there(by_domain: Port) -> None:
    assert by_domain.from_guest(guest_tcp(dport=443)).verdict == PASS
    assert by_domain.from_guest(guest_tcp(NODE, dport=PROXY_TLS_PORT, flags=ACK)).reason is DropReason.TO_HOST
    assert by_domain.from_guest(guest_tcp(NODE, dport=PROXY_TLS_PORT)).reason is DropReason.TO_HOST


async def test_an_address_rule_leads_past_the_proxy(switch: CubeVS, by_domain: Port) -> None:
    policy = replace(BY_DOMAIN, allow=(IPv4Network(OUTSIDE),))
    await switch.admit(by_domain.tap, new_sandbox_id(), policy)
    assert parse(by_domain.from_guest(guest_tcp(OUTSIDE, dport=443)).frame).destination == OUTSIDE
    assert by_domain.from_guest(guest_udp(OUTSIDE, 443)).verdict == PASS
    assert parse(by_domain.from_guest(guest_tcp(OTHER, dport=443)).frame).destination == NODE


async def test_without_domains_nothing_goes_to_the_proxy(switch: CubeVS, by_domain: Port) -> None:
    assert by_domain.from_guest(guest_tcp(dport=443)).verdict == PASS
    await switch.admit(by_domain.tap, new_sandbox_id(), EgressPolicy(deny=(EVERYTHING,)))
    assert by_domain.from_guest(guest_tcp(dport=443, flags=ACK)).reason is DropReason.POLICY
    assert by_domain.from_guest(guest_tcp(dport=443)).reason is DropReason.POLICY
    assert by_domain.from_node(answer(by_domain, PROXY_TLS_PORT)).reason is DropReason.POLICY


@pytest.mark.parametrize("allow_internet", [True, False])
async def test_names_can_be_asked_for(switch: CubeVS, unadmitted: Port, *, allow_internet: bool) -> None:
    policy = replace(BY_DOMAIN, allow_internet=allow_internet)
    await switch.admit(unadmitted.tap, new_sandbox_id(), policy)
    asked = unadmitted.from_guest(guest_udp(GATEWAY_ADDRESS, 53))
    assert asked.verdict == PASS
    assert parse(asked.frame).destination == NODE


async def test_a_flow_of_an_earlier_policy_does_not_change_its_far_end(switch: CubeVS, port: Port) -> None:
    assert parse(port.from_guest(guest_tcp(dport=443)).frame).destination == OUTSIDE
    await switch.admit(port.tap, new_sandbox_id(), BY_DOMAIN)
    assert port.from_guest(guest_tcp(dport=443, flags=ACK)).reason is DropReason.POLICY
    assert port.from_outside(tcp_frame(OUTSIDE, port.tap.address, 443, 5000, ACK)).reason is DropReason.POLICY


async def test_a_diverted_flow_stays_with_the_proxy_when_its_address_is_allowed(
    switch: CubeVS, by_domain: Port
) -> None:
    assert by_domain.from_guest(guest_tcp(dport=443)).verdict == PASS
    await switch.admit(by_domain.tap, new_sandbox_id(), replace(BY_DOMAIN, allow=(IPv4Network(OUTSIDE),)))
    assert parse(by_domain.from_guest(guest_tcp(dport=443, flags=ACK)).frame).destination == NODE
    assert by_domain.from_node(answer(by_domain, PROXY_TLS_PORT, ACK)).verdict == PASS
    assert parse(by_domain.from_guest(guest_tcp(dport=443)).frame).destination == OUTSIDE, "a new flow does not"


async def test_one_port_of_the_guest_has_one_flow_at_the_proxy(by_domain: Port) -> None:
    assert by_domain.from_guest(guest_tcp(OUTSIDE, dport=443)).verdict == PASS
    assert by_domain.from_guest(guest_tcp(OTHER, dport=443)).reason is DropReason.PROXY_PORT_TAKEN
    assert by_domain.from_guest(guest_tcp(OTHER, dport=443, flags=ACK)).reason is DropReason.POLICY
    assert by_domain.from_guest(guest_tcp(OTHER, dport=443, sport=5001)).verdict == PASS
    assert by_domain.from_guest(guest_tcp(OTHER, dport=80)).verdict == PASS, "another port of the proxy"
    assert parse(by_domain.from_node(answer(by_domain, PROXY_TLS_PORT)).frame).source == OUTSIDE
    assert by_domain.from_guest(guest_tcp(OUTSIDE, dport=443, flags=RST)).verdict == PASS
    assert by_domain.from_guest(guest_tcp(OTHER, dport=443)).verdict == PASS
    assert parse(by_domain.from_node(answer(by_domain, PROXY_TLS_PORT)).frame).source == OTHER


async def test_only_the_proxy_answers_for_itself(by_domain: Port) -> None:
    assert by_domain.from_node(answer(by_domain, PROXY_TLS_PORT)).reason is DropReason.NOT_FROM_HOST
    assert by_domain.from_guest(guest_tcp(dport=443)).verdict == PASS
    assert by_domain.from_outside(answer(by_domain, PROXY_TLS_PORT)).reason is DropReason.NOT_FROM_HOST
    assert by_domain.from_node(answer(by_domain, PROXY_HTTP_PORT)).reason is DropReason.NOT_FROM_HOST
    assert by_domain.from_node(answer(by_domain, PROXY_TLS_PORT, dport=5001)).reason is DropReason.NOT_FROM_HOST
    claimed = tcp_frame(OUTSIDE, by_domain.tap.address, 443, 5000, SYN | ACK)
    assert by_domain.from_outside(claimed).reason is DropReason.NOT_FROM_HOST


async def test_the_proxy_opens_no_flow_to_a_guest(by_domain: Port) -> None:
    """So that none of its ports is ever open to a guest as the node's own are, to whom it opened a flow."""
    assert by_domain.from_node(answer(by_domain, PROXY_TLS_PORT, SYN)).reason is DropReason.NOT_FROM_HOST
    assert by_domain.from_guest(guest_tcp(NODE, dport=PROXY_TLS_PORT, flags=ACK)).reason is DropReason.TO_HOST


async def test_the_end_of_the_admission_ends_what_is_diverted(switch: CubeVS, by_domain: Port) -> None:
    assert by_domain.from_guest(guest_tcp(dport=443)).verdict == PASS
    await switch.revoke(by_domain.tap)
    assert by_domain.from_guest(guest_tcp(dport=443, flags=ACK)).reason is DropReason.NOT_ADMITTED
    assert by_domain.from_guest(guest_tcp(dport=443)).reason is DropReason.NOT_ADMITTED
    assert by_domain.from_node(answer(by_domain, PROXY_TLS_PORT)).reason is DropReason.NOT_FROM_HOST


async def test_an_unadmitted_guest_reaches_no_proxy(unadmitted: Port) -> None:
    assert unadmitted.from_guest(guest_tcp(dport=443)).reason is DropReason.NOT_ADMITTED


async def test_errors_about_what_is_diverted_name_no_address_of_the_node(by_domain: Port) -> None:
    diverted = by_domain.from_guest(guest_tcp(dport=443))
    quoted = diverted.frame[14 : 14 + 28]
    error = Frame(NODE, by_domain.tap.address, ICMP, icmp(UNREACHABLE, 3, 0, quoted))
    assert by_domain.from_node(error).reason is DropReason.NOT_FROM_HOST
    from_guest = udp_frame(NODE, GUEST_ADDRESS, PROXY_TLS_PORT, 5000).ip()[:28]
    assert (
        by_domain.from_guest(Frame(destination=NODE, protocol=ICMP, l4=icmp(UNREACHABLE, 3, 0, from_guest))).reason
        is DropReason.TO_HOST
    )


async def test_what_is_diverted_is_kept_with_where_it_was_sent(by_domain: Port) -> None:
    by_domain.from_guest(guest_tcp(dport=443))
    by_domain.from_guest(guest_tcp(dport=443, flags=FIN | ACK))
    by_domain.from_node(answer(by_domain, PROXY_TLS_PORT, FIN | ACK))
    sessions = by_domain.maps.sessions_of(by_domain.tap.ifindex)
    assert sessions is not None
    found = sessions.get(SessionKey(NODE, 5000, PROXY_TLS_PORT, TCP).pack())
    assert found is not None
    session = Session.unpack(found)
    assert (session.opener, session.original) == (Opener.GUEST, OUTSIDE)
    assert session.closed == Closed.BY_GUEST | Closed.BY_PEER
