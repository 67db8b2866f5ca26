"""Whatever is read in search of a name, every byte of it can still be passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubevs.egress.opening import Opening
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.requests import Http, ListeningProtocol, Tcp, Tls, Unread

REQUEST = b"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\n"


class Guest:
    """A `Stream` whose other side has said something already, and may have ended."""

    def __init__(self, says: bytes, *, ends: bool = True) -> None:
        self._reader = asyncio.StreamReader(limit=32768)
        self._reader.feed_data(says)
        if ends:
            self._reader.feed_eof()
        self.read = self._reader.read
        self.readexactly = self._reader.readexactly
        self.readuntil = self._reader.readuntil

    def write(self, _data: bytes, /) -> None:
        raise AssertionError("nothing is said to a guest of which something is read")

    async def drain(self) -> None:
        pass

    async def end(self) -> None:
        pass


async def joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def assert_kept(protocol: ListeningProtocol, says: bytes) -> None:
    guest = Guest(says)
    opening = Opening(guest)
    with suppress(Refused):
        await protocol.read(opening)
    assert await joined(Unread(opening.settled(), guest).sent()) == says


@pytest.mark.parametrize("protocol", [Http(), Tls(allow_ech=False), Tcp()], ids=lambda protocol: protocol.label)
@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"G",
        b"GET ",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: exam",
        REQUEST + b"abc" + REQUEST,
        b"SSH-2.0-OpenSSH_9.9\r\n" + bytes(100),
        b"\x16\x03\x01\x00\x05hello" + bytes(100),
        b"\x16\x03\x01\x02\x00\x01",
        b"\x16\x03\x01\xff\xff",
        b"GET /" + b"a" * 100_000,
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000),
        bytes(range(256)) * 1000,
    ],
    ids=range(13),
)
async def test_nothing_is_lost(protocol: ListeningProtocol, says: bytes) -> None:
    await assert_kept(protocol, says)


@given(st.binary(max_size=100))
async def test_nothing_is_lost_of_anything(says: bytes) -> None:
    for protocol in (Http(), Tls(allow_ech=False)):
        await assert_kept(protocol, says)
        await assert_kept(protocol, b"GET " + says)
        await assert_kept(protocol, b"\x16\x03\x01\x00\x20\x01" + says)


async def test_what_is_settled_is_kept_no_more() -> None:
    opening = Opening(Guest(REQUEST + b"abc"))
    request = await Http().read(opening)
    assert opening.settled() == REQUEST
    assert (await joined(request.sent())).endswith(b"\r\n\r\nabc")
    assert opening.settled() == b""


@pytest.mark.parametrize("says", [b"SSH-2.0-OpenSSH_9.9\r\n", b"\0", b"EHLO example.com\r\n", b"a" * 40])
async def test_what_is_no_request_is_told_before_its_end(says: bytes) -> None:
    """Its client may wait for an answer."""
    with pytest.raises(Refused) as caught:
        await asyncio.wait_for(Http().read(Opening(Guest(says, ends=False))), 30)
    assert caught.value.reason is Reason.MALFORMED


async def test_of_other_ports_nothing_is_read() -> None:
    with pytest.raises(Refused) as caught:
        await asyncio.wait_for(Tcp().read(Opening(Guest(b"", ends=False))), 30)
    assert caught.value.reason is Reason.UNNAMED
