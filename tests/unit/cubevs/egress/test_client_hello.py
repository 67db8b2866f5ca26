"""Names are read from what a real TLS library sends, however it is cut, and from nothing that is not quite that."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubevs.egress.client_hello import MAX_HELLO, ClientHello, read_client_hello, server_name
from appliance.cubevs.egress.refusals import Reason, Refused


def flight(name: str | None, *, alpn: Iterable[str] = ("h2", "http/1.1"), tls12: bool = False) -> bytes:
    """Return what OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(list(alpn))
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def message(name: str | None) -> bytes:
    return flight(name)[5:]


def in_records(hello: bytes, size: int) -> bytes:
    pieces = [hello[at : at + size] for at in range(0, len(hello), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


async def read(data: bytes, *, end: bool = True, allow_ech: bool = False) -> ClientHello:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    if end:
        stream.feed_eof()
    return await read_client_hello(stream, allow_ech=allow_ech)


async def refusal(data: bytes) -> Reason:
    with pytest.raises(Refused) as caught:
        await read(data)
    return caught.value.reason


@pytest.mark.parametrize("tls12", [False, True])
async def test_the_name_that_openssl_sends_is_read(*, tls12: bool) -> None:
    data = flight("WWW.Example.com", tls12=tls12)
    assert await read(data, end=False) == ClientHello("www.example.com", data)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 64, 255, 300])
async def test_a_hello_in_many_records_is_read_whole(size: int) -> None:
    data = in_records(message("example.com"), size)
    assert await read(data) == ClientHello("example.com", data)


async def test_a_hello_that_arrives_byte_by_byte_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = flight("example.com")
    stream = asyncio.StreamReader()
    reading = asyncio.create_task(read_client_hello(stream, allow_ech=False))
    for byte in data:
        stream.feed_data(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await reading).flight == data


async def test_what_follows_the_hello_is_left_in_the_stream() -> None:
    stream = asyncio.StreamReader()
    data = flight("example.com")
    early_data = b"\x17\x03\x03\x00\x04early"
    stream.feed_data(data + early_data)
    assert (await read_client_hello(stream, allow_ech=False)).flight == data
    assert await stream.readexactly(len(early_data)) == early_data


@given(st.data())
def test_no_cut_of_a_hello_is_read_as_a_whole_one(data: st.DataObject) -> None:
    hello = flight("example.com")
    cut = data.draw(st.integers(0, len(hello) - 1))
    assert asyncio.run(refusal(hello[:cut])) is Reason.MALFORMED


EXTENSION_ORDER = Callable[[list[tuple[int, bytes]]], list[tuple[int, bytes]]]


def rebuilt(change: EXTENSION_ORDER, name: str = "example.com") -> bytes:
    """Return the message of a real hello with its extensions changed."""
    hello = message(name)
    at = 4 + 2 + 32
    for prefix in (1, 2, 1):
        at += prefix + int.from_bytes(hello[at : at + prefix], "big")
    extensions, rest = [], hello[at + 2 :]
    while rest:
        kind, size = struct.unpack_from("!HH", rest)
        extensions.append((kind, rest[4 : 4 + size]))
        rest = rest[4 + size :]
    block = b"".join(struct.pack("!HH", kind, len(body)) + body for kind, body in change(extensions))
    body = hello[4:at] + len(block).to_bytes(2, "big") + block
    return b"\x01" + len(body).to_bytes(3, "big") + body


def names(*entries: tuple[int, bytes]) -> bytes:
    listed = b"".join(bytes((kind,)) + len(name).to_bytes(2, "big") + name for kind, name in entries)
    return len(listed).to_bytes(2, "big") + listed


def with_name(body: bytes) -> EXTENSION_ORDER:
    return lambda extensions: [(0, body)] + [one for one in extensions if one[0] != 0]


HOSTILE: dict[str, tuple[EXTENSION_ORDER, Reason]] = {
    "no name": (lambda es: [e for e in es if e[0] != 0], Reason.UNNAMED),
    "no extensions": (lambda _: [], Reason.UNNAMED),
    "two name extensions": (lambda es: [*es, (0, names((0, b"evil.org")))], Reason.MALFORMED),
    "two names": (with_name(names((0, b"example.com"), (0, b"evil.org"))), Reason.MALFORMED),
    "name of another kind": (with_name(names((1, b"example.com"))), Reason.MALFORMED),
    "an empty list": (with_name(names()), Reason.MALFORMED),
    "an empty extension": (with_name(b""), Reason.MALFORMED),
    "an empty name": (with_name(names((0, b""))), Reason.UNNAMED),
    "a list shorter than it says": (with_name(names((0, b"example.com"))[:-1]), Reason.MALFORMED),
    "bytes behind the list": (with_name(names((0, b"example.com")) + b"x"), Reason.MALFORMED),
    "an address": (with_name(names((0, b"1.2.3.4"))), Reason.UNNAMED),
    "a nul": (with_name(names((0, b"example.com\0.evil.org"))), Reason.UNNAMED),
    "utf-8": (with_name(names((0, "bücher.example".encode()))), Reason.UNNAMED),
    "a wildcard": (with_name(names((0, b"*"))), Reason.UNNAMED),
    "encrypted hello": (lambda es: [*es, (0xFE0D, b"\0" * 32)], Reason.HIDDEN_NAME),
    "encrypted hello without a name": (
        lambda es: [(0xFE0D, b""), *(e for e in es if e[0] != 0)],
        Reason.HIDDEN_NAME,
    ),
    "a twice given extension": (lambda es: [*es, es[-1]], Reason.MALFORMED),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_extensions_are_refused(case: str) -> None:
    change, reason = HOSTILE[case]
    assert await refusal(in_records(rebuilt(change), 16384)) is reason


async def test_the_outer_name_counts_where_an_encrypted_hello_is_allowed() -> None:
    data = in_records(rebuilt(lambda extensions: [*extensions, (0xFE0D, b"\0" * 32)]), 16384)
    assert (await read(data, allow_ech=True)).server_name == "example.com"


async def test_a_client_without_a_name_is_unnamed() -> None:
    assert await refusal(flight(None)) is Reason.UNNAMED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSLv2
        b"\x15\x03\x01\x00\x02\x02\x28",  # an alert
        b"\x17\x03\x03\x00\x05hello",  # application data
        b"\x16\x02\x01\x00\x05hello",
        b"\x16\x03\x01\x00\x00" * 3,  # empty records
        b"\x16\x03\x01\x40\x01" + bytes(0x4001),  # longer than a record may be
        b"\x16\x03\x01\x00\x04\x02\0\0\0",  # a ServerHello
        in_records(b"\x01" + (MAX_HELLO + 1).to_bytes(3, "big") + bytes(MAX_HELLO), 16384),
        in_records(b"\x01\xff\xff\xff" + bytes(16000), 16384),
        in_records(message("example.com") + b"x", 16384),  # something behind the hello, in its record
        in_records(b"\x01" + (8000).to_bytes(3, "big") + bytes(8000), 1),  # 48 kB of records
    ],
)
async def test_what_does_not_begin_as_tls_does_is_malformed(data: bytes) -> None:
    assert await refusal(data) is Reason.MALFORMED


async def test_another_record_between_those_of_a_hello_is_malformed() -> None:
    hello = message("example.com")
    data = in_records(hello[:100], 100) + b"\x15\x03\x01\x00\x02\x01\x00" + in_records(hello[100:], 1000)
    assert await refusal(data) is Reason.MALFORMED


@given(st.binary(max_size=300))
def test_any_message_is_a_name_or_refused(body: bytes) -> None:
    try:
        server_name(b"\x01" + len(body).to_bytes(3, "big") + body, allow_ech=False)
    except Refused:
        return
    raise AssertionError("random bytes were read as a hello with a name")


@given(st.data())
def test_a_hello_with_any_byte_changed_is_a_name_or_refused(data: st.DataObject) -> None:
    hello = bytearray(message("example.com"))
    hello[data.draw(st.integers(4, len(hello) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        server_name(bytes(hello), allow_ech=False)
    except Refused:
        return
