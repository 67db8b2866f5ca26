from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubevs.egress import resolver
from appliance.cubevs.egress.resolver import DnsResolver, Unresolved, answers, parse_answer
from tests.support.name_server import NameServer, name_server, reply
from tests.support.ports import free_port

LOOPBACK = IPv4Address("127.0.0.1")


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server(LOOPBACK) as started:
        yield started


async def test_every_address_of_a_name_is_found(server: NameServer) -> None:
    server.records["www.example.com"] = ("1.2.3.4", "5.6.7.8")
    found = await DnsResolver(LOOPBACK, server.port).addresses("www.example.com")
    assert found == (IPv4Address("1.2.3.4"), IPv4Address("5.6.7.8"))
    assert server.asked == [("udp", "www.example.com")]


async def test_an_answer_too_long_for_a_datagram_is_asked_for_by_tcp(server: NameServer) -> None:
    server.records["many.example"] = tuple(f"1.2.3.{n}" for n in range(100))
    assert len(await DnsResolver(LOOPBACK, server.port).addresses("many.example")) == 100
    assert server.asked == [("udp", "many.example"), ("tcp", "many.example")]


@pytest.mark.parametrize(
    ("records", "why"), [({}, "there is no such name"), ({"x.example": ()}, "has no IPv4 address")]
)
async def test_a_name_without_addresses_is_unresolved(
    server: NameServer, records: dict[str, tuple[str, ...]], why: str
) -> None:
    server.records = records
    with pytest.raises(Unresolved, match=why):
        await DnsResolver(LOOPBACK, server.port).addresses("x.example")
    assert len(server.asked) == 1


async def test_a_server_that_is_away_is_asked_again_and_then_given_up() -> None:
    with pytest.raises(Unresolved, match="does not answer"):
        await DnsResolver(LOOPBACK, free_port()).addresses("x.example")


async def test_a_silent_server_is_given_up() -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=(str(LOOPBACK), 0)
    )
    port = transport.get_extra_info("sockname")[1]
    try:
        with pytest.raises(Unresolved, match="does not answer"):
            await DnsResolver(LOOPBACK, port, attempts=2, attempt_s=0.05).addresses("x.example")
    finally:
        transport.close()


async def test_forged_datagrams_before_the_answer_do_no_harm() -> None:
    class Forger(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # of its kind
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            question = data[12:]
            other_id = bytes((data[0] ^ 1, data[1]))
            for forged in (
                b"",
                b"short",
                data,
                reply(other_id, question, ("6.6.6.6",)),
                reply(data[:2], b"\x04evil" + question[-5:], ("6.6.6.6",)),
                reply(data[:2], question, ("1.2.3.4",)),
            ):
                self.transport.sendto(forged, addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Forger, local_addr=(str(LOOPBACK), 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        assert await DnsResolver(LOOPBACK, port).addresses("x.example") == (IPv4Address("1.2.3.4"),)
    finally:
        transport.close()


QUERY = resolver._query("www.example.com")
QUESTION = QUERY[12:]


def record(owner: bytes, kind: int, data: bytes, *, class_: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, class_, 60, len(data)) + data


def answer(*records: bytes, count: int | None = None) -> bytes:
    header = QUERY[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records) if count is None else count, 0, 0)
    return header + QUESTION + b"".join(records)


def test_aliases_are_followed_by_the_server_and_passed_over_here() -> None:
    message = answer(
        record(b"\xc0\x0c", 5, b"\x03cdn\x07example\x03net\0"),
        record(b"\x03cdn\x07example\x03net\0", 1, bytes((1, 2, 3, 4))),
        record(b"\xc0\x0c", 28, bytes(16)),
        record(b"\xc0\x0c", 1, bytes((6, 6, 6, 6)), class_=3),
    )
    assert parse_answer(message, QUERY) == (IPv4Address("1.2.3.4"),)


@pytest.mark.parametrize(
    "message",
    [
        answer(count=1),
        answer(b"\xc0", count=1),
        answer(record(b"\xc0\x0c", 1, bytes(4))[:-5], count=1),
        answer(b"\x3f", count=1),
        answer(b"\xff" * 3, count=1),
    ],
)
def test_an_answer_that_ends_early_is_unresolved(message: bytes) -> None:
    with pytest.raises(Unresolved, match="cannot be read"):
        parse_answer(message, QUERY)


@given(st.binary(max_size=64))
def test_any_bytes_behind_the_question_are_addresses_or_unresolved(rest: bytes) -> None:
    message = answer(rest, count=3)
    assert answers(message, QUERY)
    try:
        found = parse_answer(message, QUERY)
    except Unresolved:
        return
    assert len(found) <= 3
