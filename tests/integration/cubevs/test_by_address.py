"""What address rules allow and the egress proxy sees: passed on as it is, unless a header rule is for its name."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from appliance.cubevs.base import EgressPolicy, Tap
from appliance.cubevs.egress.originals import DivertedFlows
from appliance.cubevs.egress.proxy import Limits
from appliance.cubevs.egress.refusals import Reason
from appliance.cubevs.switch import CubeVS
from appliance.domain.egress import HeaderRule
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.conftest import MakeGuest
from tests.integration.cubevs.egress_proxy import EVERYTHING, LIMITS, Egress
from tests.integration.cubevs.egress_world import get, http, https_lines, plain, tls, tls_answer
from tests.support.sandbox_net import ELSEWHERE, OUTSIDE, Guest, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.root

INSPECTED = EgressPolicy(header_rules=(HeaderRule("example.com", {"X-Key": "secret"}),))
WELCOMING = IPv4Address("203.0.113.9")
"""Where a server of no known protocol is, on both ports: it speaks first, and ends once its client has."""


@pytest.fixture
async def sandbox(egress: Egress, make_guest: MakeGuest) -> tuple[Tap, Guest]:
    return await make_guest(INSPECTED)


async def welcome(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"welcome\n")
    heard = await reader.read()
    writer.write(heard + b"%d bytes\n" % len(heard))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.fixture
async def welcoming(in_node: Site) -> AsyncIterator[None]:
    in_node.outside.ip(f"address add {WELCOMING}/24 dev eth0")
    servers = []
    for port in (80, 443):
        listener = in_node.listen(WELCOMING, port)
        listener.setblocking(False)
        servers.append(await asyncio.start_server(welcome, sock=listener))
    yield
    for server in servers:
        server.close()
        await server.wait_closed()
    in_node.outside.ip(f"address del {WELCOMING}/24 dev eth0")


async def test_tls_for_a_name_without_a_rule_passes_to_where_it_was_sent(egress: Egress, guest: Guest) -> None:
    for name in ("other.org", "www.example.com"):
        assert await tls_answer(egress.world, guest, ELSEWHERE, name) == str(ELSEWHERE)
    assert egress.upstreams("address", "node") == 2
    assert egress.names.asked == [], "nobody is asked where that is"


async def test_http_passes_unchanged_and_for_more_than_one_request(egress: Egress, guest: Guest) -> None:
    first = b"GET /a HTTP/1.1\r\nhost:other.org\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n\r\n"
    second = get("www.example.com", "/b")
    async with plain(guest, ELSEWHERE, 80) as (reader, writer):
        writer.write(first + second)
        writer.write_eof()
        assert (await reader.read()).endswith(f"{ELSEWHERE}\n".encode())
    await eventually(lambda: len(egress.world.requests) == 1)
    assert egress.world.requests == [(str(ELSEWHERE), first + second)]
    assert egress.injected("http") == 0


@pytest.mark.parametrize("request_", [get(str(OUTSIDE)), b"GET / HTTP/1.0\r\n\r\n"], ids=["address", "no host"])
async def test_http_without_a_name_passes(egress: Egress, guest: Guest, request_: bytes) -> None:
    assert await http(guest, OUTSIDE, request_) == (200, f"{OUTSIDE}\n".encode())


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize(
    "says",
    [b"SSH-2.0-OpenSSH_9.9\r\n", bytes(range(256)) * 2000, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"],
    ids=["ssh", "bytes", "broken tls"],
)
async def test_any_protocol_passes_whole_with_each_way_ended_by_itself(
    egress: Egress, welcoming: None, guest: Guest, port: int, says: bytes
) -> None:
    async with plain(guest, WELCOMING, port) as (reader, writer):
        writer.write(says)
        writer.write_eof()
        assert await reader.read() == b"welcome\n" + says + b"%d bytes\n" % len(says)
    await eventually(lambda: egress.open_connections() == 0)


class TestServersThatSpeakFirst:
    @pytest.fixture
    def limits(self) -> Limits:
        return replace(LIMITS, request_s=0.5)

    @pytest.mark.parametrize("port", [80, 443])
    async def test_they_are_heard_once_the_guest_has_not_spoken(
        self, egress: Egress, welcoming: None, guest: Guest, port: int
    ) -> None:
        async with plain(guest, WELCOMING, port) as (reader, writer):
            assert await reader.readline() == b"welcome\n"
            writer.write(b"thanks\n")
            writer.write_eof()
            assert await reader.read() == b"thanks\n7 bytes\n"


async def test_a_name_with_a_rule_leads_to_its_own_address_wherever_it_is_sent(egress: Egress, guest: Guest) -> None:
    """Or its owner's secret would go to whoever the guest chooses."""
    assert await http(guest, ELSEWHERE, get("example.com")) == (200, f"{OUTSIDE}\n".encode())
    await eventually(lambda: len(egress.world.requests) == 1)
    ((address, received),) = egress.world.requests
    assert (address, b"X-Key: secret" in received) == (str(OUTSIDE), True)
    assert egress.upstreams("name", "node") == 1


async def test_a_name_with_a_rule_leads_to_its_own_address_by_tls_too(
    egress: Egress, sandbox: tuple[Tap, Guest], switch: CubeVS
) -> None:
    tap, guest = sandbox
    sandbox_id = new_sandbox_id()
    await switch.admit(tap, sandbox_id, INSPECTED)
    heard = await https_lines(switch, sandbox_id, guest, ELSEWHERE, get("example.com"))
    assert (heard[0], b"X-Key: secret" in heard) == (str(OUTSIDE).encode(), True)
    assert egress.world.tls_connections == [str(OUTSIDE)]


async def test_a_name_that_passed_by_an_address_leads_to_no_denied_one(egress: Egress, make_guest: MakeGuest) -> None:
    _, guest = await make_guest(replace(INSPECTED, deny=(IPv4Network(ELSEWHERE),)))
    egress.names.records["example.com"] = (str(ELSEWHERE),)
    assert (await http(guest, OUTSIDE, get("example.com")))[0] == 403
    assert egress.refused("http", Reason.ADDRESS) == 1
    egress.names.records["example.com"] = (str(ELSEWHERE), str(OUTSIDE))
    assert await http(guest, OUTSIDE, get("example.com")) == (200, f"{OUTSIDE}\n".encode())


async def test_a_rule_lets_no_name_pass(egress: Egress, make_guest: MakeGuest) -> None:
    policy = replace(INSPECTED, deny=(EVERYTHING,), allow=(IPv4Network(ELSEWHERE),), allow_domains=("other.org",))
    _, guest = await make_guest(policy)
    assert (await http(guest, OUTSIDE, get("example.com")))[0] == 403
    assert egress.refused("http", Reason.DOMAIN) == 1
    assert (await http(guest, OUTSIDE, get("other.org"))) == (200, f"{ELSEWHERE}\n".encode()), "by its name"
    assert (await http(guest, ELSEWHERE, get("www.example.com"))) == (200, f"{ELSEWHERE}\n".encode()), "by its address"


async def test_where_it_is_not_known_where_a_connection_was_sent_its_name_decides(
    egress: Egress, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DivertedFlows, "destination", lambda *_: None)
    assert (await http(guest, OUTSIDE, get("example.com")))[0] == 403
    assert (await http(guest, OUTSIDE, get("other.org")))[0] == 403
    assert egress.refused("http", Reason.DOMAIN) == 2


async def test_a_changed_policy_cuts_what_it_forbids_by_address_and_nothing_else(
    egress: Egress, sandbox: tuple[Tap, Guest], switch: CubeVS
) -> None:
    tap, guest = sandbox
    sandbox_id = new_sandbox_id()
    await switch.admit(tap, sandbox_id, INSPECTED)
    async with (
        tls(egress.world, guest, OUTSIDE, "www.example.com") as (kept_reader, kept_writer),
        tls(egress.world, guest, ELSEWHERE, "other.org") as (cut_reader, _),
    ):
        await kept_reader.readline()
        await cut_reader.readline()
        await switch.admit(tap, sandbox_id, replace(INSPECTED, deny=(IPv4Network(ELSEWHERE),)))
        await egress.proxy.recheck()
        with pytest.raises(ConnectionResetError):
            await cut_reader.read()
        kept_writer.write(b"still here\n")
        assert await kept_reader.readline() == b"still here\n"
    assert egress.refused("tls", Reason.POLICY_CHANGED) == 1


async def test_a_rule_for_a_name_ends_what_was_open_to_it_without(
    egress: Egress, sandbox: tuple[Tap, Guest], switch: CubeVS
) -> None:
    tap, guest = sandbox
    sandbox_id = new_sandbox_id()
    await switch.admit(tap, sandbox_id, INSPECTED)
    async with tls(egress.world, guest, ELSEWHERE, "other.org") as (reader, _):
        await reader.readline()
        rules = (*INSPECTED.header_rules, HeaderRule("other.org", {"X-Key": "other"}))
        await switch.admit(tap, sandbox_id, replace(INSPECTED, header_rules=rules))
        await egress.proxy.recheck()
        with pytest.raises(ConnectionResetError):
            await reader.read()
