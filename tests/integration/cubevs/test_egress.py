"""Guests, the switch, the egress proxy, a name server and the servers of the world, all with real packets."""

from __future__ import annotations

import asyncio
import select
import ssl
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from appliance.cubevs.base import (
    GATEWAY_ADDRESS,
    PROXY_HTTP_PORT,
    PROXY_TCP_PORT,
    PROXY_TLS_PORT,
    DropReason,
    EgressPolicy,
    Tap,
)
from appliance.cubevs.egress import rule_files
from appliance.cubevs.egress.proxy import Limits
from appliance.cubevs.egress.refusals import Reason
from appliance.cubevs.egress.resolver import DnsResolver
from appliance.cubevs.switch import CubeVS
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.conftest import MakeGuest
from tests.integration.cubevs.egress_proxy import EVERYTHING, LIMITS, NODE, Egress
from tests.integration.cubevs.egress_world import DEADLINE_S, connect, get, http, plain, tls, tls_answer
from tests.support.sandbox_net import ELSEWHERE, METADATA, NODE_UPLINK, OUTSIDE, PRIVATE, Guest, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.root

BY_DOMAIN = EgressPolicy(deny=(EVERYTHING,), allow_domains=("example.com", "*.example.com"))
MEBIBYTE = 1 << 20


@pytest.fixture
async def sandbox(egress: Egress, make_guest: MakeGuest) -> tuple[Tap, Guest]:
    return await make_guest(BY_DOMAIN)


@pytest.mark.parametrize("offloads", [True, False], ids=["offloads", "no offloads"])
async def test_an_allowed_name_is_reached_by_tls_whole_and_both_ways(
    egress: Egress, make_guest: MakeGuest, *, offloads: bool
) -> None:
    _, guest = await make_guest(BY_DOMAIN, offloads=offloads)
    data = bytes(range(256)) * (4 * MEBIBYTE // 256)
    async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, writer):
        assert await reader.readline() == f"{OUTSIDE}\n".encode()
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
    await eventually(lambda: egress.open_connections() == 0)


async def test_an_allowed_name_is_reached_by_http(egress: Egress, guest: Guest) -> None:
    assert await http(guest, OUTSIDE, get("example.com", "/a")) == (200, f"{OUTSIDE}\n".encode())
    await eventually(lambda: len(egress.world.requests) == 1)
    assert egress.world.requests == [
        (str(OUTSIDE), b"GET /a HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
    ]


@pytest.mark.parametrize("name", ["www.example.com", "a.b.example.com"])
async def test_names_below_a_wildcard_are_reached(egress: Egress, guest: Guest, name: str) -> None:
    assert await tls_answer(egress.world, guest, OUTSIDE, name) == str(OUTSIDE)
    assert (await http(guest, OUTSIDE, get(name)))[0] == 200


async def test_other_names_are_refused_in_words_that_the_client_understands(egress: Egress, guest: Guest) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
        await tls_answer(egress.world, guest, ELSEWHERE, "other.org")
    status, text = await http(guest, ELSEWHERE, get("other.org"))
    assert (status, text) == (403, b"other.org is no domain that this sandbox may reach.\n")
    assert egress.refused("tls", Reason.DOMAIN) == egress.refused("http", Reason.DOMAIN) == 1
    assert egress.names.asked == [], "nothing is looked up that may not be reached"
    assert egress.world.requests == []
    assert egress.world.tls_connections == []


async def test_everything_may_be_allowed_by_name(egress: Egress, make_guest: MakeGuest) -> None:
    _, guest = await make_guest(replace(BY_DOMAIN, allow_domains=("*",)))
    assert await tls_answer(egress.world, guest, ELSEWHERE, "other.org") == str(ELSEWHERE)
    assert (await http(guest, ELSEWHERE, get(str(ELSEWHERE))))[0] == 403, "an address is no name"


async def test_a_name_leads_to_its_own_address_wherever_it_is_sent(egress: Egress, guest: Guest) -> None:
    for claimed in (ELSEWHERE, PRIVATE, METADATA, IPv4Address("93.184.216.34")):
        assert await tls_answer(egress.world, guest, claimed, "example.com") == str(OUTSIDE)
        assert await http(guest, claimed, get("example.com")) == (200, f"{OUTSIDE}\n".encode())
    assert set(egress.world.tls_connections) == {str(OUTSIDE)}


async def test_without_a_name_no_address_is_reached(egress: Egress, guest: Guest) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
        await asyncio.open_connection(sock=await connect(guest, OUTSIDE, 443), ssl=context, server_hostname="")
    assert (await http(guest, OUTSIDE, get(str(OUTSIDE))))[0] == 403
    assert (await http(guest, OUTSIDE, b"GET / HTTP/1.0\r\n\r\n"))[0] == 403
    assert egress.refused("tls", Reason.UNNAMED) == 1
    assert egress.refused("http", Reason.UNNAMED) == 2


async def test_what_is_no_tls_and_no_http_is_refused(egress: Egress, guest: Guest) -> None:
    async with plain(guest, OUTSIDE, 443) as (reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        assert (await reader.read())[:1] == b"\x15"
    status, _ = await http(guest, OUTSIDE, b"\x16\x03\x01\x00\x05hello\r\n\r\n")
    assert status == 400
    assert egress.refused("tls", Reason.MALFORMED) == egress.refused("http", Reason.MALFORMED) == 1


async def test_a_second_request_on_a_connection_reaches_nobody(egress: Egress, guest: Guest) -> None:
    """Neither behind a request without a body, nor behind one whose body has an end."""
    hidden = get("other.org", "/hidden")
    chunked = b"POST /b HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    counted = b"POST /c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\nabc"
    for request in (get("example.com", "/a"), chunked, counted):
        status, body = await http(guest, OUTSIDE, request + hidden)
        assert (status, body) == (200, f"{OUTSIDE}\n".encode()), "one answer, and the end"
    await eventually(lambda: len(egress.world.requests) == 3)
    assert not [received for _, received in egress.world.requests if b"hidden" in received]
    assert egress.world.requests[1][1].endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert egress.world.requests[2][1].endswith(b"\r\n\r\nabc")


async def test_a_guest_may_end_its_side_first(egress: Egress, guest: Guest) -> None:
    async with plain(guest, OUTSIDE, 80) as (reader, writer):
        writer.write(get("example.com"))
        writer.write_eof()
        assert (await reader.read()).endswith(f"{OUTSIDE}\n".encode())


@pytest.mark.parametrize(
    "address", [str(METADATA), str(PRIVATE), str(NODE), str(NODE_UPLINK), "10.88.0.2", "127.0.0.1", "224.0.0.1"]
)
async def test_a_name_does_not_lead_inside(egress: Egress, guest: Guest, address: str) -> None:
    """Whoever owns an allowed name may let it resolve to anything."""
    egress.names.records["www.example.com"] = (address,)
    status, text = await http(guest, OUTSIDE, get("www.example.com"))
    assert (status, text) == (403, b"www.example.com leads to no address that this sandbox may reach.\n")
    egress.names.records["www.example.com"] = (address, str(OUTSIDE))
    assert await http(guest, OUTSIDE, get("www.example.com")) == (200, f"{OUTSIDE}\n".encode())


async def test_an_allowed_name_beats_a_denied_network(egress: Egress, make_guest: MakeGuest) -> None:
    denied = (EVERYTHING, IPv4Network("198.51.100.0/24"))
    _, guest = await make_guest(replace(BY_DOMAIN, deny=denied, allow_domains=("other.org",)))
    assert (await http(guest, OUTSIDE, get("other.org")))[0] == 200
    assert (await http(guest, OUTSIDE, get("example.com")))[0] == 403


async def test_a_name_that_does_not_resolve_or_answer_is_a_bad_gateway(egress: Egress, guest: Guest) -> None:
    assert (await http(guest, OUTSIDE, get("absent.example.com"))) == (
        502,
        b"absent.example.com cannot be resolved: there is no such name.\n",
    )
    egress.names.records["www.example.com"] = ("203.0.113.3",)  # nobody is there
    assert (await http(guest, OUTSIDE, get("www.example.com")))[0] == 502
    assert (egress.refused("http", Reason.UNRESOLVED), egress.refused("http", Reason.UPSTREAM)) == (1, 1)


async def test_names_can_be_asked_for(egress: Egress, guest: Guest) -> None:
    egress.names.records["some.example"] = ("1.2.3.4", "1.2.3.5")
    resolver = DnsResolver(GATEWAY_ADDRESS)
    with guest.namespace.entered():  # of all that runs in this thread until the block ends, but it only awaits this
        assert len(await resolver.addresses("some.example")) == 2
    assert egress.names.asked == [("udp", "some.example")]


async def test_an_address_rule_needs_no_name(egress: Egress, make_guest: MakeGuest, place: Site) -> None:
    _, guest = await make_guest(replace(BY_DOMAIN, allow=(IPv4Network(f"{ELSEWHERE}/32"),)))
    assert await tls_answer(egress.world, guest, ELSEWHERE, "other.org") == str(ELSEWHERE)
    with place.listen(ELSEWHERE, 8080) as server, guest.connect(ELSEWHERE, 8080):
        server.accept()[0].close()


async def dropped(switch: CubeVS, reason: DropReason, since: int, at_least: int) -> None:
    """Wait until `at_least` packets were dropped for `reason` since there were `since` of them."""
    async with asyncio.timeout(DEADLINE_S):
        while (await switch.drops())[reason] - since < at_least:  # noqa: ASYNC110 - a map in the kernel tells nobody
            await asyncio.sleep(0.01)


async def test_other_ports_stay_closed(egress: Egress, guest: Guest, switch: CubeVS, place: Site) -> None:
    before = (await switch.drops())[DropReason.POLICY]
    with place.listen(OUTSIDE, 8443) as server:
        attempt = asyncio.create_task(connect(guest, OUTSIDE, 8443))
        await dropped(switch, DropReason.POLICY, before, at_least=1)
        assert not attempt.done()
        assert not select.select([server], [], [], 0)[0]
        attempt.cancel()
        await asyncio.wait([attempt])


@pytest.mark.parametrize("port", [PROXY_HTTP_PORT, PROXY_TLS_PORT, PROXY_TCP_PORT])
async def test_the_proxys_own_ports_stay_closed(egress: Egress, guest: Guest, switch: CubeVS, port: int) -> None:
    before = (await switch.drops())[DropReason.TO_HOST]
    targets = (NODE, NODE_UPLINK, GATEWAY_ADDRESS)
    attempts = [asyncio.create_task(connect(guest, address, port)) for address in targets]
    await dropped(switch, DropReason.TO_HOST, before, at_least=len(targets))
    assert not any(attempt.done() for attempt in attempts)
    for attempt in attempts:
        attempt.cancel()
    await asyncio.wait(attempts)
    accepted = [
        sample.value
        for metric in egress.registry.collect()
        for sample in metric.samples
        if sample.name == "cube_egress_connections_total"
    ]
    assert sum(accepted) == 0


async def test_a_changed_policy_cuts_what_it_forbids_and_nothing_else(
    egress: Egress, sandbox: tuple[Tap, Guest], switch: CubeVS
) -> None:
    tap, guest = sandbox
    sandbox_id = new_sandbox_id()
    await switch.admit(tap, sandbox_id, replace(BY_DOMAIN, allow_domains=("example.com", "other.org")))
    async with (
        tls(egress.world, guest, OUTSIDE, "example.com") as (kept_reader, kept_writer),
        tls(egress.world, guest, ELSEWHERE, "other.org") as (cut_reader, _),
    ):
        await kept_reader.readline()
        await cut_reader.readline()
        await switch.admit(tap, sandbox_id, replace(BY_DOMAIN, allow_domains=("example.com",)))
        await egress.proxy.recheck()
        with pytest.raises(ConnectionResetError):
            await cut_reader.read()
        kept_writer.write(b"still here\n")
        assert await kept_reader.readline() == b"still here\n"
    assert egress.refused("tls", Reason.POLICY_CHANGED) == 1


async def test_rules_that_change_while_a_name_is_looked_up_count(
    egress: Egress, sandbox: tuple[Tap, Guest], in_node: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap, guest = sandbox
    rules = rule_files.read(in_node.egress_rules, tap.address)
    assert rules is not None
    changed = rules.model_copy(update={"allow_domains": ("other.org",)})
    answer = egress.names.answer

    def answer_late(query: bytes, *, by: str) -> bytes:
        rule_files.publish(in_node.egress_rules, tap.address, changed)
        return answer(query, by=by)

    monkeypatch.setattr(egress.names, "answer", answer_late)
    assert (await http(guest, OUTSIDE, get("example.com")))[0] == 403
    assert egress.refused("http", Reason.POLICY_CHANGED) == 1
    await eventually(lambda: egress.open_connections() == 0)
    assert egress.world.requests == []


async def test_a_connection_of_a_former_sandbox_is_none_of_the_next_one(
    egress: Egress, sandbox: tuple[Tap, Guest], switch: CubeVS, in_node: Site
) -> None:
    tap, guest = sandbox
    async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, _):
        await reader.readline()
        # Only the rules, as the proxy alone must notice where the kernel cannot abort connections.
        rules = rule_files.read(in_node.egress_rules, tap.address)
        assert rules is not None
        rule_files.publish(in_node.egress_rules, tap.address, rules.model_copy(update={"sandbox_id": "next"}))
        await egress.proxy.recheck()
        await eventually(lambda: egress.open_connections() == 0)
    assert egress.refused("tls", Reason.POLICY_CHANGED) == 1


async def test_the_end_of_a_sandbox_ends_its_connections(
    egress: Egress, sandbox: tuple[Tap, Guest], switch: CubeVS
) -> None:
    tap, guest = sandbox
    async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, _):
        await reader.readline()
        await switch.revoke(tap)
        await egress.proxy.recheck()
        await eventually(lambda: egress.open_connections() == 0)


async def test_without_published_rules_nothing_passes(
    egress: Egress, sandbox: tuple[Tap, Guest], in_node: Site
) -> None:
    tap, guest = sandbox
    rule_files.withdraw(in_node.egress_rules, tap.address)
    assert (await http(guest, OUTSIDE, get("example.com")))[0] == 403
    with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
        await tls_answer(egress.world, guest, OUTSIDE, "example.com")
    assert egress.refused("tls", Reason.NO_POLICY) == egress.refused("http", Reason.NO_POLICY) == 1


async def test_rules_and_connections_outlive_a_restart_of_the_node_agent(
    egress: Egress, guest: Guest, in_node: Site
) -> None:
    async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, writer):
        await reader.readline()
        await in_node.switch().start()
        await egress.proxy.recheck()
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
    assert await tls_answer(egress.world, guest, OUTSIDE, "www.example.com") == str(OUTSIDE)


async def test_a_proxy_that_is_away_refuses_at_once(egress: Egress, guest: Guest) -> None:
    await egress.proxy.close()
    with pytest.raises(ConnectionRefusedError):
        await connect(guest, OUTSIDE, 443)


async def test_a_slow_reader_stops_the_sender(egress: Egress, guest: Guest) -> None:
    """Bytes wait at their sender and not in the proxy."""
    async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, writer):
        await reader.readline()

        async def send() -> None:
            while True:
                writer.write(bytes(MEBIBYTE))
                await writer.drain()

        sending = asyncio.create_task(send())
        sent = -1.0

        def moved() -> float:
            return egress.registry.get_sample_value("cube_egress_bytes_total", {"direction": "sent"}) or 0

        # The echo comes back until every buffer on its way is full. Then nothing moves.
        while sent != (sent := moved()) or sent == 0:  # noqa: ASYNC110 - that nothing happens has no Event
            await asyncio.sleep(0.5)
        sending.cancel()
        await asyncio.wait([sending])
        assert sent < 64 * MEBIBYTE


class TestNumberOfConnections:
    @pytest.fixture
    def limits(self) -> Limits:
        return replace(LIMITS, connections_per_sandbox=2)

    async def test_a_sandbox_has_a_number_of_connections_and_others_have_theirs(
        self, egress: Egress, make_guest: MakeGuest
    ) -> None:
        _, greedy = await make_guest(BY_DOMAIN)
        _, other = await make_guest(BY_DOMAIN)
        clients = [await connect(greedy, OUTSIDE, 443) for _ in range(4)]
        try:
            await eventually(lambda: egress.refused("tls", Reason.TOO_MANY) == 2)
            assert (await http(other, OUTSIDE, get("example.com")))[0] == 200
        finally:
            for client in clients:
                client.close()
        await eventually(lambda: egress.open_connections() == 0)
        assert (await http(greedy, OUTSIDE, get("example.com")))[0] == 200


class TestLateRequests:
    @pytest.fixture
    def limits(self) -> Limits:
        return replace(LIMITS, request_s=0.5)

    async def test_a_request_that_does_not_come_is_not_waited_for(self, egress: Egress, guest: Guest) -> None:
        status, _ = await http(guest, OUTSIDE, b"GET / HTTP/1.1\r\nHost: exam")
        assert status == 408
        async with plain(guest, OUTSIDE, 443) as (reader, writer):
            writer.write(b"\x16\x03\x01\x02\x00\x01")
            assert (await reader.read())[:1] == b"\x15"
        assert egress.refused("tls", Reason.LATE) == egress.refused("http", Reason.LATE) == 1


class TestSilence:
    @pytest.fixture
    def limits(self) -> Limits:
        return replace(LIMITS, idle_s=3)

    async def test_silence_ends_a_connection(self, egress: Egress, guest: Guest) -> None:
        async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, _):
            await reader.readline()
            await eventually(lambda: egress.open_connections() == 0)
        assert egress.refused("tls", Reason.IDLE) == 1


def test_the_proxys_ports_are_no_ports_of_outgoing_connections(place: Site) -> None:
    low, _ = place.node.run("cat", "/proc/sys/net/ipv4/ip_local_port_range").split()
    assert max(PROXY_HTTP_PORT, PROXY_TLS_PORT, PROXY_TCP_PORT) < int(low)
