"""A guest whose TCP leaves by its tenant's SOCKS5 proxy, or not at all."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from appliance.cubevs.base import EgressPolicy, Tap
from appliance.cubevs.egress.refusals import Reason
from appliance.cubevs.switch import CubeVS
from appliance.domain.egress import HeaderRule, Tunnel, TunnelTls
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.conftest import MakeGuest
from tests.integration.cubevs.egress_proxy import EVERYTHING, Egress, running_egress
from tests.integration.cubevs.egress_world import get, http, https_lines, plain, tls, tls_answer
from tests.support.certificates import tls_contexts
from tests.support.sandbox_net import ELSEWHERE, METADATA, OUTSIDE, PRIVATE, Guest, Site
from tests.support.socks5_server import Socks5Server, socks5_server
from tests.support.waiting import eventually

pytestmark = pytest.mark.root

PROXY = "proxy.example.com"
PORT, TLS_PORT, ECHO_PORT = 1080, 1443, 8022
TUNNEL = Tunnel(PROXY, PORT, "user", "pass")
TUNNELLED = EgressPolicy(tunnel=TUNNEL)


@pytest.fixture
def tunnel_s() -> float:
    return 15


@pytest.fixture
async def egress(switch: CubeVS, in_node: Site, tmp_path: Path, tunnel_s: float) -> AsyncIterator[Egress]:
    async with running_egress(in_node, tmp_path, tunnel_s=tunnel_s) as running:
        running.names.records[PROXY] = (str(ELSEWHERE),)
        yield running


@asynccontextmanager
async def tenants_proxy(place: Site, port: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Socks5Server]:
    def outside() -> socket.socket:
        with place.outside.entered():
            return socket.socket()

    server = Socks5Server(
        names={"example.com": OUTSIDE, "other.org": ELSEWHERE}, credentials=("user", "pass"), open_socket=outside
    )
    async with socks5_server(place.listen(ELSEWHERE, port), tls=tls, server=server):
        yield server
    assert server.violations == []


@pytest.fixture
async def proxy(egress: Egress, in_node: Site) -> AsyncIterator[Socks5Server]:
    async with tenants_proxy(in_node, PORT) as server:
        yield server


@pytest.fixture
async def echo(in_node: Site) -> AsyncIterator[None]:
    """A server on another port, which speaks first, and says at its client's end what that was."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"welcome\n")
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listener = in_node.listen(OUTSIDE, ECHO_PORT)
    listener.setblocking(False)
    server = await asyncio.start_server(serve, sock=listener)
    yield
    server.close()
    await server.wait_closed()


@pytest.fixture
async def sandbox(egress: Egress, make_guest: MakeGuest) -> tuple[Tap, Guest]:
    return await make_guest(TUNNELLED)


async def test_tls_and_http_leave_by_the_tunnel_to_where_they_were_sent(
    egress: Egress, proxy: Socks5Server, guest: Guest
) -> None:
    assert await tls_answer(egress.world, guest, OUTSIDE, "other.org") == str(OUTSIDE)
    assert await http(guest, OUTSIDE, get("other.org")) == (200, f"{OUTSIDE}\n".encode())
    assert proxy.asked == [(str(OUTSIDE), 443), (str(OUTSIDE), 80)]
    assert egress.upstreams("address", "tunnel") == 2
    assert {name for _, name in egress.names.asked} == {PROXY}


async def test_any_other_port_leaves_by_the_tunnel_with_each_way_ended_by_itself(
    egress: Egress, proxy: Socks5Server, echo: None, guest: Guest
) -> None:
    said = bytes(range(256)) * 4000
    async with plain(guest, OUTSIDE, ECHO_PORT) as (reader, writer):
        assert await reader.readline() == b"welcome\n"
        writer.write(said)
        writer.write_eof()
        assert await reader.read() == said
    assert proxy.asked == [(str(OUTSIDE), ECHO_PORT)]
    await eventually(lambda: egress.open_connections() == 0)


async def test_names_are_resolved_at_the_other_end(egress: Egress, proxy: Socks5Server, make_guest: MakeGuest) -> None:
    _, guest = await make_guest(replace(TUNNELLED, deny=(EVERYTHING,), allow_domains=("example.com",)))
    assert await tls_answer(egress.world, guest, ELSEWHERE, "example.com") == str(OUTSIDE)
    assert await http(guest, METADATA, get("example.com")) == (200, f"{OUTSIDE}\n".encode())
    assert (await http(guest, OUTSIDE, get("other.org")))[0] == 403
    assert proxy.asked == [("example.com", 443), ("example.com", 80)]
    assert {name for _, name in egress.names.asked} == {PROXY}


async def test_headers_are_added_on_the_way_into_the_tunnel(
    egress: Egress, proxy: Socks5Server, make_guest: MakeGuest
) -> None:
    _, guest = await make_guest(replace(TUNNELLED, header_rules=(HeaderRule("example.com", {"X-Key": "secret"}),)))
    assert await http(guest, ELSEWHERE, get("example.com")) == (200, f"{OUTSIDE}\n".encode())
    await eventually(lambda: len(egress.world.requests) == 1)
    assert b"X-Key: secret" in egress.world.requests[0][1]
    assert proxy.asked == [("example.com", 80)]


async def test_headers_are_added_within_tls_that_leaves_by_the_tunnel(
    egress: Egress, proxy: Socks5Server, sandbox: tuple[Tap, Guest], switch: CubeVS
) -> None:
    tap, guest = sandbox
    sandbox_id = new_sandbox_id()
    policy = replace(TUNNELLED, header_rules=(HeaderRule("example.com", {"X-Key": "secret"}),))
    await switch.admit(tap, sandbox_id, policy)
    heard = await https_lines(switch, sandbox_id, guest, ELSEWHERE, get("example.com"))
    assert (heard[0], b"X-Key: secret" in heard) == (str(OUTSIDE).encode(), True)
    assert proxy.asked == [("example.com", 443)]


async def assert_nothing_leaves(egress: Egress, guest: Guest, *, status: int = 502) -> None:
    assert (await http(guest, OUTSIDE, get("example.com")))[0] == status
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        await tls_answer(egress.world, guest, OUTSIDE, "example.com")
    async with plain(guest, OUTSIDE, ECHO_PORT) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert egress.world.requests == []
    assert egress.world.tls_connections == []
    assert [egress.refused(protocol, Reason.TUNNEL) for protocol in ("http", "tls", "tcp")] == [1, 1, 1]


async def test_without_the_tenants_proxy_nothing_leaves(egress: Egress, echo: None, guest: Guest) -> None:
    await assert_nothing_leaves(egress, guest)


async def test_with_a_wrong_password_nothing_leaves(
    egress: Egress, proxy: Socks5Server, echo: None, guest: Guest
) -> None:
    proxy.credentials = ("user", "another")
    await assert_nothing_leaves(egress, guest)
    _, text = await http(guest, OUTSIDE, get("example.com"))
    assert text == b"The SOCKS5 proxy of this sandbox does not take its user name and password.\n"


@pytest.mark.parametrize("address", [str(PRIVATE), str(METADATA), "10.88.0.1", "10.88.0.2", "127.0.0.1"])
@pytest.mark.parametrize("named", [True, False], ids=["by name", "by address"])
async def test_the_tenants_proxy_is_not_inside(
    egress: Egress, in_node: Site, echo: None, make_guest: MakeGuest, address: str, *, named: bool
) -> None:
    egress.names.records["inside.example.com"] = (address,)
    _, guest = await make_guest(EgressPolicy(tunnel=Tunnel("inside.example.com" if named else address, PORT)))
    await assert_nothing_leaves(egress, guest)
    _, text = await http(guest, OUTSIDE, get("example.com"))
    assert b"has no public address" in text, "and it is not even tried"


async def test_what_the_tenants_proxy_cannot_reach_is_said(egress: Egress, proxy: Socks5Server, guest: Guest) -> None:
    proxy.code = 4
    status, text = await http(guest, OUTSIDE, get("example.com"))
    assert (status, b"the host cannot be reached" in text) == (502, True)
    assert egress.refused("http", Reason.UPSTREAM) == 1


class TestSilence:
    @pytest.fixture
    def tunnel_s(self) -> float:
        return 0.5

    async def test_a_silent_proxy_is_not_waited_for(
        self, egress: Egress, in_node: Site, echo: None, guest: Guest
    ) -> None:
        with in_node.listen(ELSEWHERE, PORT):  # the kernel accepts, and nobody answers
            await assert_nothing_leaves(egress, guest)


async def test_a_proxy_may_be_spoken_to_by_tls(
    egress: Egress, in_node: Site, tmp_path: Path, make_guest: MakeGuest
) -> None:
    (tmp_path / "proxy").mkdir()
    server_tls, _ = tls_contexts(tmp_path / "proxy", PROXY)
    pem = (tmp_path / "proxy" / "server.pem").read_text()
    trusted = pem[pem.index("-----BEGIN CERTIFICATE") :]
    tunnel = Tunnel(PROXY, TLS_PORT, "user", "pass", TunnelTls(PROXY, trusted))
    async with tenants_proxy(in_node, TLS_PORT, tls=server_tls) as proxy:
        _, guest = await make_guest(EgressPolicy(tunnel=tunnel))
        async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, writer):
            assert await reader.readline() == f"{OUTSIDE}\n".encode()
            data = bytes(range(256)) * 4000
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
        assert proxy.asked == [(str(OUTSIDE), 443)]
        await eventually(lambda: egress.open_connections() == 0)
        untrusted = replace(tunnel, tls=TunnelTls("other.example.com", trusted))
        _, guest = await make_guest(EgressPolicy(tunnel=untrusted))
        assert (await http(guest, OUTSIDE, get("example.com")))[0] == 502
        assert egress.refused("http", Reason.TUNNEL) == 1


@pytest.mark.parametrize(
    "changed",
    [None, replace(TUNNEL, port=TLS_PORT), replace(TUNNEL, password="new")],
    ids=["none", "moved", "password"],
)
async def test_another_tunnel_ends_what_went_by_the_former(
    egress: Egress, proxy: Socks5Server, echo: None, sandbox: tuple[Tap, Guest], switch: CubeVS, changed: Tunnel | None
) -> None:
    tap, guest = sandbox
    sandbox_id = new_sandbox_id()
    await switch.admit(tap, sandbox_id, TUNNELLED)
    async with (
        plain(guest, OUTSIDE, ECHO_PORT) as (reader, _),
        tls(egress.world, guest, OUTSIDE, "example.com") as (tls_reader, tls_writer),
    ):
        await reader.readline()
        await tls_reader.readline()
        await switch.admit(tap, sandbox_id, replace(TUNNELLED, deny=(IPv4Network(ELSEWHERE),)))
        await egress.proxy.recheck()
        tls_writer.write(b"still here\n")
        assert await tls_reader.readline() == b"still here\n"
        await switch.admit(tap, sandbox_id, EgressPolicy(tunnel=changed))
        await egress.proxy.recheck()
        for cut in (reader, tls_reader):
            with pytest.raises(ConnectionResetError):
                await cut.read()
    await eventually(lambda: proxy.open_connections == 0)


async def test_a_new_tunnel_ends_what_went_past_it(
    egress: Egress, proxy: Socks5Server, echo: None, make_guest: MakeGuest, switch: CubeVS
) -> None:
    tap, guest = await make_guest(EgressPolicy(header_rules=(HeaderRule("www.example.com", {"X": "y"}),)))
    sandbox_id = new_sandbox_id()
    await switch.admit(tap, sandbox_id, EgressPolicy(header_rules=(HeaderRule("www.example.com", {"X": "y"}),)))
    async with tls(egress.world, guest, OUTSIDE, "example.com") as (reader, _):
        await reader.readline()
        await switch.admit(tap, sandbox_id, TUNNELLED)
        await egress.proxy.recheck()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert proxy.asked == []


@pytest.mark.parametrize("address", [OUTSIDE, IPv4Address("203.0.113.3")])
async def test_an_address_that_is_denied_is_not_reached_by_the_tunnel(
    egress: Egress, proxy: Socks5Server, make_guest: MakeGuest, address: IPv4Address
) -> None:
    policy = replace(TUNNELLED, deny=(IPv4Network("203.0.113.0/24"),), allow_domains=("other.org",))
    _, guest = await make_guest(policy)
    assert (await http(guest, address, get("example.com")))[0] == 403
    assert proxy.asked == []
