"""Real packets between guests, their node and the world outside it."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import threading
import time
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network

import pytest

from appliance.cubevs import loader
from appliance.cubevs.base import GATEWAY_ADDRESS, DropReason, EgressPolicy
from appliance.cubevs.kernel import BpfMap
from appliance.cubevs.maps import Closed, Opener, Session, SessionKey, open_maps
from appliance.cubevs.switch import CubeVS
from appliance.cubevs.taps import make_tap
from appliance.domain.errors import NetworkFailure
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.conftest import MakeGuest
from tests.support.sandbox_net import (
    ELSEWHERE,
    METADATA,
    NODE_UPLINK,
    OUTSIDE,
    PRIVATE,
    Guest,
    Site,
    connect,
    guest,
    listen,
    udp_socket,
)

pytestmark = pytest.mark.root

MEBIBYTE = 1 << 20


def transfer(sender: socket.socket, receiver: socket.socket, size: int) -> int:
    """Send `size` bytes and return how many of the right ones arrived."""
    data = bytes(range(256)) * (size // 256)

    def send() -> None:
        sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    received = bytearray()
    while chunk := receiver.recv(1 << 16):
        received += chunk
    thread.join()
    return len(received) if received == data else -1


with_and_without_offloads = pytest.mark.parametrize("offloads", [True, False], ids=["offloads", "no offloads"])


@with_and_without_offloads
async def test_guest_reaches_outside_behind_the_nodes_address(
    make_guest: MakeGuest, place: Site, *, offloads: bool
) -> None:
    _, guest = await make_guest(offloads=offloads)
    with place.listen(OUTSIDE, 8080) as server, guest.connect(OUTSIDE, 8080) as client:
        connection, peer = server.accept()
        with connection:
            assert IPv4Address(peer[0]) == NODE_UPLINK
            assert transfer(client, connection, 8 * MEBIBYTE) == 8 * MEBIBYTE


@with_and_without_offloads
async def test_bulk_from_outside_arrives_whole(make_guest: MakeGuest, place: Site, *, offloads: bool) -> None:
    _, guest = await make_guest(offloads=offloads)
    with place.listen(ELSEWHERE, 8081) as server, guest.connect(ELSEWHERE, 8081) as client:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            assert transfer(connection, client, 8 * MEBIBYTE) == 8 * MEBIBYTE


@with_and_without_offloads
@pytest.mark.parametrize("policy", [EgressPolicy(), None], ids=["admitted", "unadmitted"])
async def test_node_reaches_guest(make_guest: MakeGuest, policy: EgressPolicy | None, *, offloads: bool) -> None:
    tap, guest = await make_guest(policy, offloads=offloads)
    with guest.listen(49983) as server, connect(tap.address, 49983) as client:
        connection, peer = server.accept()
        with connection:
            assert peer[0] == "10.88.0.1"
            assert transfer(client, connection, 4 * MEBIBYTE) == 4 * MEBIBYTE


async def dropped(switch: CubeVS, reason: DropReason, since: dict[DropReason, int], at_least: int = 1) -> None:
    """Wait until `at_least` packets were dropped for `reason` after `since` was taken."""
    async with asyncio.timeout(5):
        while (await switch.drops())[reason] - since[reason] < at_least:  # noqa: ASYNC110 - a map in the kernel tells nobody
            await asyncio.sleep(0.01)


def begin_connect(guest: Guest, address: IPv4Address, port: int) -> socket.socket:
    """Start a TCP handshake as the guest and return at once."""
    with guest.namespace.entered():
        client = socket.socket()
    client.setblocking(False)
    client.connect_ex((str(address), port))
    return client


def nothing_arrived(server: socket.socket) -> bool:
    """Has a listening or datagram socket received nothing so far?"""
    return not select.select([server], [], [], 0)[0]


async def test_unadmitted_guest_reaches_nothing(make_guest: MakeGuest, switch: CubeVS, place: Site) -> None:
    _, guest = await make_guest(None)
    before = await switch.drops()
    with place.listen(OUTSIDE, 8082) as server, begin_connect(guest, OUTSIDE, 8082):
        await dropped(switch, DropReason.NOT_ADMITTED, before)
        assert nothing_arrived(server)


async def test_guest_cannot_reach_another_guest(make_guest: MakeGuest, switch: CubeVS) -> None:
    _, attacker = await make_guest()
    tap, victim = await make_guest()
    before = await switch.drops()
    with victim.listen(49983) as server, begin_connect(attacker, tap.address, 49983), attacker.udp() as datagrams:
        datagrams.sendto(b"hello", (str(tap.address), 49983))
        await dropped(switch, DropReason.TO_SANDBOX, before, at_least=2)
        assert nothing_arrived(server)


NODE_PORTS = (22, 53, 80, 443, 3000, 3306, 6379, 8089, 9999, 33333)


@pytest.mark.parametrize("address", ["10.88.0.1", str(NODE_UPLINK), "203.0.113.99"])
async def test_guest_cannot_reach_the_node(make_guest: MakeGuest, switch: CubeVS, in_node: Site, address: str) -> None:
    _, guest = await make_guest()
    if address == "203.0.113.99":  # an address the node got after CubeVS had looked
        in_node.node.ip(f"address add {address}/32 dev uplink")
    before = await switch.drops()
    with ExitStack() as stack:
        servers = [stack.enter_context(listen(IPv4Address(0), port)) for port in NODE_PORTS]
        servers += [stack.enter_context(udp_socket(IPv4Address(0), port)) for port in NODE_PORTS]
        datagrams = stack.enter_context(guest.udp())
        for port in NODE_PORTS:
            stack.enter_context(begin_connect(guest, IPv4Address(address), port))
            datagrams.sendto(b"hello", (address, port))
        await dropped(switch, DropReason.TO_HOST, before, at_least=2 * len(NODE_PORTS))
        assert all(nothing_arrived(server) for server in servers)


async def test_gateway_has_no_open_port_but_dns(make_guest: MakeGuest, switch: CubeVS) -> None:
    _, guest = await make_guest()
    before = await switch.drops()
    with listen(IPv4Address(0), 80) as server, begin_connect(guest, GATEWAY_ADDRESS, 80), guest.udp() as datagrams:
        datagrams.sendto(b"hello", (str(GATEWAY_ADDRESS), 5353))
        await dropped(switch, DropReason.TO_HOST, before, at_least=2)
        assert nothing_arrived(server)


EVERYTHING = IPv4Network("0.0.0.0/0")


@pytest.mark.parametrize("target", [METADATA, PRIVATE])
@pytest.mark.parametrize("allow", [(), (EVERYTHING,), (IPv4Network(METADATA), IPv4Network(PRIVATE))])
async def test_no_policy_opens_a_denied_network(
    make_guest: MakeGuest, switch: CubeVS, place: Site, target: IPv4Address, allow: tuple[IPv4Network, ...]
) -> None:
    _, guest = await make_guest(EgressPolicy(allow=allow))
    before = await switch.drops()
    with place.listen(IPv4Address(0), 80) as server, begin_connect(guest, target, 80):
        await dropped(switch, DropReason.DENIED_NETWORK, before)
        assert nothing_arrived(server)


@pytest.mark.parametrize(
    ("policy", "reached"),
    [
        (EgressPolicy(), True),
        (EgressPolicy(allow_internet=False), False),
        (EgressPolicy(allow_internet=False, allow=(IPv4Network("203.0.113.0/24"),)), True),
        (EgressPolicy(deny=(IPv4Network("203.0.113.2/32"),)), False),
        (EgressPolicy(deny=(IPv4Network("203.0.113.3/32"),)), True),
        (EgressPolicy(allow=(IPv4Network("203.0.0.0/8", strict=False),), deny=(IPv4Network("203.0.113.2/32"),)), True),
    ],
)
async def test_policy(
    make_guest: MakeGuest, switch: CubeVS, place: Site, policy: EgressPolicy, *, reached: bool
) -> None:
    _, guest = await make_guest(policy)
    before = await switch.drops()
    with place.listen(OUTSIDE, 8083) as server, begin_connect(guest, OUTSIDE, 8083):
        if reached:
            server.accept()[0].close()
        else:
            await dropped(switch, DropReason.POLICY, before)
            assert nothing_arrived(server)


async def test_a_stricter_policy_cuts_open_flows_both_ways(make_guest: MakeGuest, switch: CubeVS, place: Site) -> None:
    tap, guest = await make_guest()
    with place.listen(OUTSIDE, 8084) as server, guest.connect(OUTSIDE, 8084) as client:
        connection, _ = server.accept()
        with connection:
            await switch.admit(tap, new_sandbox_id(), EgressPolicy(allow_internet=False))
            before = await switch.drops()
            client.sendall(b"out")
            await dropped(switch, DropReason.POLICY, before)
            before = await switch.drops()
            connection.sendall(b"in")
            await dropped(switch, DropReason.POLICY, before)
            assert nothing_arrived(connection)
            assert nothing_arrived(client)


async def test_a_change_opens_nothing_that_both_policies_forbid(
    make_guest: MakeGuest, switch: CubeVS, place: Site
) -> None:
    """Each policy forbids the target in another way, under a default that would let it through."""
    target = IPv4Network(f"{OUTSIDE}/32")
    others = tuple(IPv4Network(f"198.51.100.{n}/32") for n in range(32))
    policies = (EgressPolicy(deny=(target, *others)), EgressPolicy(deny=(*others, IPv4Network("203.0.113.0/24"))))
    tap, guest = await make_guest(policies[0])
    stop = threading.Event()
    sent = 0

    def probe() -> None:
        nonlocal sent
        with guest.udp() as prober:
            while not stop.is_set():
                prober.sendto(b"probe", (str(OUTSIDE), 9001))
                sent += 1

    with place.outside.entered():
        server = udp_socket(OUTSIDE, 9001)
    prober = threading.Thread(target=probe)
    with server:
        prober.start()
        try:
            for n in range(200):
                await switch.admit(tap, new_sandbox_id(), policies[n % 2])
        finally:
            stop.set()
            prober.join()
        assert sent > 1000
        assert nothing_arrived(server)


async def test_a_change_keeps_the_flows_that_the_new_policy_allows(
    make_guest: MakeGuest, switch: CubeVS, place: Site
) -> None:
    tap, guest = await make_guest()
    with place.listen(OUTSIDE, 8089) as server, guest.connect(OUTSIDE, 8089) as client:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            only = EgressPolicy(allow_internet=False, allow=(IPv4Network(f"{OUTSIDE}/32"),))
            await switch.admit(tap, new_sandbox_id(), only)
            assert transfer(client, connection, MEBIBYTE) == MEBIBYTE


async def test_rules_that_cannot_be_written_leave_the_former_ones_whole(
    make_guest: MakeGuest, switch: CubeVS, in_node: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap, _ = await make_guest(EgressPolicy(deny=(EVERYTHING,)))
    maps = open_maps(in_node.bpffs / "v1" / "maps", sessions_per_tap=16)
    before = sorted(maps.policy.keys())
    put = BpfMap.put
    room = iter([True, False])

    def full(self: BpfMap, key: bytes, value: bytes) -> None:
        if not next(room):
            raise OSError(errno.ENOSPC, "no room")
        put(self, key, value)

    monkeypatch.setattr(BpfMap, "put", full)
    with pytest.raises(NetworkFailure, match="cannot write the network rules"):
        await switch.admit(tap, new_sandbox_id(), EgressPolicy(allow=(EVERYTHING, IPv4Network("1.1.1.1/32"))))
    monkeypatch.undo()
    assert sorted(maps.policy.keys()) == before


async def test_dns_is_answered_by_the_node(make_guest: MakeGuest, in_node: Site) -> None:
    _, guest = await make_guest()
    with udp_socket(IPv4Address("10.88.0.1"), 53) as server, guest.udp() as resolver:
        resolver.connect((str(GATEWAY_ADDRESS), 53))  # takes answers from nobody else
        resolver.send(b"question")
        question, client = server.recvfrom(512)
        server.sendto(b"answer to " + question, client)
        assert resolver.recv(512) == b"answer to question"


async def test_no_dns_without_internet(make_guest: MakeGuest, switch: CubeVS, in_node: Site) -> None:
    _, guest = await make_guest(EgressPolicy(allow_internet=False))
    before = await switch.drops()
    with udp_socket(IPv4Address("10.88.0.1"), 53) as server, guest.udp() as resolver:
        resolver.sendto(b"secret", (str(GATEWAY_ADDRESS), 53))
        await dropped(switch, DropReason.POLICY, before)
        assert nothing_arrived(server)


async def test_an_icmp_error_finds_the_guests_socket(make_guest: MakeGuest) -> None:
    _, guest = await make_guest()
    with guest.udp() as client:
        client.connect((str(OUTSIDE), 9))  # closed there: the answer is "port unreachable"
        client.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            client.recv(512)


async def test_a_closed_port_of_the_guest_is_reported_to_the_node(make_guest: MakeGuest) -> None:
    tap, _ = await make_guest()
    with udp_socket() as client:
        client.connect((str(tap.address), 9))
        client.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            client.recv(512)


@pytest.mark.parametrize("fence", ["both", "programs only"])
async def test_outside_cannot_open_a_flow_to_a_guest(
    make_guest: MakeGuest, switch: CubeVS, in_node: Site, fence: str
) -> None:
    tap, guest = await make_guest()
    if fence == "programs only":
        in_node.node.run("nft", "delete", "table", "inet", "cube")
    before = await switch.drops()
    with in_node.outside.entered(), guest.listen(8085) as server, socket.socket() as client:
        client.setblocking(False)
        client.connect_ex((str(tap.address), 8085))
        if fence == "programs only":
            await dropped(switch, DropReason.NOT_FROM_HOST, before)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.get_running_loop().sock_accept(nonblocking(server))


def nonblocking(server: socket.socket) -> socket.socket:
    server.setblocking(False)
    return server


async def test_revoke_resets_the_nodes_connections_at_once(make_guest: MakeGuest, switch: CubeVS) -> None:
    tap, guest = await make_guest()
    with guest.listen(49983) as server, connect(tap.address, 49983) as client:
        connection, _ = server.accept()
        with connection:
            await switch.revoke(tap)
            with pytest.raises(ConnectionAbortedError):
                client.recv(1)


async def test_revoke_ends_the_guests_flows(make_guest: MakeGuest, switch: CubeVS, place: Site) -> None:
    tap, guest = await make_guest()
    with place.listen(OUTSIDE, 8086) as server, guest.connect(OUTSIDE, 8086) as client:
        connection, _ = server.accept()
        with connection:
            await switch.revoke(tap)
            before = await switch.drops()
            client.sendall(b"out")
            connection.sendall(b"in")
            await dropped(switch, DropReason.NOT_ADMITTED, before)
            await dropped(switch, DropReason.NOT_FROM_HOST, before)
            assert nothing_arrived(connection)
            assert nothing_arrived(client)
    await switch.admit(tap, new_sandbox_id(), EgressPolicy())
    with place.listen(OUTSIDE, 8087), guest.connect(OUTSIDE, 8087):
        pass


async def test_a_new_switch_adopts_taps_and_their_connections(make_guest: MakeGuest, place: Site) -> None:
    tap, guest = await make_guest()
    with place.listen(OUTSIDE, 8088) as server, guest.connect(OUTSIDE, 8088) as client, guest.listen(49983) as agent:
        connection, _ = server.accept()
        with connection, connect(tap.address, 49983) as caller:
            called, _ = agent.accept()
            with called:
                successor = place.switch()
                await successor.start()
                assert await successor.taps() == (tap,)
                connection.settimeout(5)
                assert transfer(client, connection, MEBIBYTE) == MEBIBYTE
                assert transfer(caller, called, MEBIBYTE) == MEBIBYTE


async def test_upgraded_programs_replace_the_old_ones_under_traffic(
    make_guest: MakeGuest, switch: CubeVS, place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap, guest = await make_guest()
    former = place.node.run("tc", "filter", "show", "dev", tap.name, "ingress")
    with guest.listen(49983) as agent, connect(tap.address, 49983) as caller:
        called, _ = agent.accept()
        with called:
            definitions = loader.definitions
            monkeypatch.setattr(loader, "definitions", lambda maps: [*definitions(maps), "-DNEXT_RELEASE"])
            await place.switch().start()
            assert place.node.run("tc", "filter", "show", "dev", tap.name, "ingress") != former
            assert len(list((place.bpffs / "v1" / "programs").iterdir())) == 1
            assert transfer(caller, called, MEBIBYTE) == MEBIBYTE


async def test_deleting_a_tap_leaves_nothing(switch: CubeVS, in_node: Site) -> None:
    tap = await switch.create_tap()
    policy = EgressPolicy(allow=(EVERYTHING,), deny=(EVERYTHING,))
    await switch.admit(tap, new_sandbox_id(), policy)
    await switch.delete_tap(tap)
    maps = open_maps(in_node.bpffs / "v1" / "maps", sessions_per_tap=16)
    assert list(maps.taps.keys()) == list(maps.sessions.keys()) == list(maps.policy.keys()) == []
    assert str(tap.address) not in in_node.node.run("ip", "route")


async def test_a_guest_cannot_fill_the_nodes_connection_table(
    make_guest: MakeGuest, switch: CubeVS, in_node: Site
) -> None:
    await in_node.switch(sessions_per_tap=32).start()
    _, flooder = await make_guest()
    _, other = await make_guest()
    with ExitStack() as stack, in_node.outside.entered():
        server = stack.enter_context(udp_socket(OUTSIDE, 9000))
        clients = [stack.enter_context(flooder.udp()) for _ in range(64)]
        clients[0].sendto(b"hello", (str(OUTSIDE), 9000))
        server.sendto(b"hello", server.recvfrom(16)[1])
        assert clients[0].recv(16) == b"hello"
        for client in clients[1:]:
            client.sendto(b"flood", (str(OUTSIDE), 9000))
        # What is open stays open, and others are not hindered.
        clients[0].sendto(b"end of flood", (str(OUTSIDE), 9000))
        stack.enter_context(other.udp()).sendto(b"other", (str(OUTSIDE), 9000))
        received: list[bytes] = []
        while not {b"end of flood", b"other"} <= set(received):  # the socket's timeout ends it
            received.append(server.recv(16))
        assert 0 < received.count(b"flood") < 32


async def test_a_tap_that_was_half_made_is_completed(switch: CubeVS, in_node: Site) -> None:
    make_tap("cubetap1", owner=0)  # and then Cubelet died
    await in_node.switch().start()
    (tap,) = await switch.taps()
    with guest(switch.open_tap(tap), "completed") as behind, behind.listen(49983):
        connect(tap.address, 49983).close()


async def test_reaping_forgets_silent_sessions_only(switch: CubeVS, in_node: Site) -> None:
    tap = await switch.create_tap()
    maps = open_maps(in_node.bpffs / "v1" / "maps", sessions_per_tap=16)
    sessions = maps.sessions_of(tap.ifindex)
    assert sessions is not None
    silent = SessionKey(OUTSIDE, 1000, 53, socket.IPPROTO_UDP)
    lively = SessionKey(OUTSIDE, 1001, 53, socket.IPPROTO_UDP)
    now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for key, seen_ns in ((silent, now_ns - 181 * 10**9), (lively, now_ns)):
        sessions.put(key.pack(), Session(seen_ns, Opener.GUEST, Closed(0)).pack())
    await switch.reap()
    assert list(sessions.keys()) == [lively.pack()]
