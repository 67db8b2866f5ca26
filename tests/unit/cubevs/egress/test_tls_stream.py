"""TLS over streams, against another implementation of the same thing at the far end: asyncio's."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.cubevs.egress.stream import TcpStream
from appliance.cubevs.egress.tls_stream import TlsStream
from tests.support.certificates import tls_contexts


@dataclass
class Pair:
    near: TlsStream
    below: StreamWriter
    reader: StreamReader
    writer: StreamWriter


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    return tls_contexts(tmp_path, "example.com")


async def pair(contexts: Contexts, *, we_serve: bool, read_before: int = 0) -> Pair:
    server, client = contexts
    ours, theirs = socket.socketpair()
    reader, below = await asyncio.open_connection(sock=ours)
    accepted: asyncio.Future[tuple[StreamReader, StreamWriter]] = asyncio.get_running_loop().create_future()

    async def far() -> tuple[StreamReader, StreamWriter]:
        if we_serve:
            return await asyncio.open_connection(sock=theirs, ssl=client, server_hostname="example.com")
        made = StreamReader()
        protocol = asyncio.StreamReaderProtocol(made, lambda r, w: accepted.set_result((r, w)))
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, theirs, ssl=server)
        return await accepted

    async with asyncio.timeout(30), asyncio.TaskGroup() as both:
        connecting = both.create_task(far())
        received = await reader.readexactly(read_before)
        near = TlsStream(
            TcpStream(reader, below),
            server if we_serve else client,
            server_hostname=None if we_serve else "example.com",
            received=received,
        )
        await near.handshake()
    return Pair(near, below, *connecting.result())


@pytest.fixture(params=[True, False], ids=["server", "client"])
async def ends(request: pytest.FixtureRequest, contexts: Contexts) -> AsyncIterator[Pair]:
    made = await pair(contexts, we_serve=request.param)
    async with asyncio.timeout(30):
        yield made
    made.below.transport.abort()
    made.writer.transport.abort()
    await asyncio.sleep(0)


async def test_what_was_read_before_is_part_of_it(contexts: Contexts) -> None:
    made = await pair(contexts, we_serve=True, read_before=100)
    made.writer.write(b"abc")
    assert await made.near.readexactly(3) == b"abc"
    made.below.transport.abort()
    made.writer.transport.abort()


async def test_much_passes_both_ways_at_once(ends: Pair) -> None:
    data = bytes(range(256)) * 8192

    async def send() -> None:
        for at in range(0, len(data), 30_000):
            ends.near.write(data[at : at + 30_000])
            await ends.near.drain()

    async def answer() -> None:
        ends.writer.write(data)
        await ends.writer.drain()

    async with asyncio.TaskGroup() as sides:
        sides.create_task(send())
        sides.create_task(answer())
        received = sides.create_task(ends.reader.readexactly(len(data)))
        assert await ends.near.readexactly(len(data)) == data
    assert received.result() == data


async def test_reading_does_not_wait_for_the_other_side_to_read(ends: Pair) -> None:
    ends.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of TLS's own kind

    async def send() -> None:
        while True:
            ends.near.write(bytes(30_000))
            await ends.near.drain()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send(), 0.5)
    ends.writer.write(b"abc")
    assert await asyncio.wait_for(ends.near.readexactly(3), 30) == b"abc"


async def test_reading_is_as_with_a_stream_reader(ends: Pair) -> None:
    ends.writer.write(b"one\r\n\r\ntwo\r\n\r\nthree")
    assert await ends.near.readuntil(b"\r\n\r\n") == b"one\r\n\r\n"
    assert await ends.near.read(3) == b"two"
    assert await ends.near.readexactly(4) == b"\r\n\r\n"
    assert await ends.near.read(0) == b""
    assert await ends.near.readexactly(5) == b"three"
    ends.writer.write(b"no end")
    ends.writer.write_eof() if ends.writer.can_write_eof() else ends.writer.close()
    with pytest.raises(IncompleteReadError) as caught:
        await ends.near.readuntil(b"\r\n")
    assert caught.value.partial == b"no end"
    assert await ends.near.read(10) == await ends.near.read() == b""
    with pytest.raises(IncompleteReadError):
        await ends.near.readexactly(1)


@pytest.mark.parametrize("data", [b"x" * 40_000, b"x" * 40_000 + b"\r\n"])
async def test_a_line_has_a_length(ends: Pair, data: bytes) -> None:
    ends.writer.write(data)
    with pytest.raises(LimitOverrunError):
        await ends.near.readuntil(b"\r\n")


async def test_the_end_is_said_and_seen(ends: Pair) -> None:
    ends.near.write(b"last words")
    await ends.near.end()
    assert await ends.reader.read() == b"last words"
    await ends.near.end()


async def test_an_end_that_nobody_said_is_one_too(ends: Pair) -> None:
    ends.writer.write(b"abc")
    await ends.writer.drain()
    assert await ends.near.readexactly(3) == b"abc"
    ends.writer.transport.abort()
    assert await ends.near.read() == b""


async def test_what_is_no_tls_is_an_error(contexts: Contexts) -> None:
    ours, theirs = socket.socketpair()
    reader, below = await asyncio.open_connection(sock=ours)
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    near = TlsStream(TcpStream(reader, below), contexts[1], server_hostname="example.com")
    with pytest.raises(ssl.SSLError):
        await near.handshake()
    theirs.close()
    below.transport.abort()


async def test_a_side_that_ends_within_the_handshake_is_an_error(contexts: Contexts) -> None:
    ours, theirs = socket.socketpair()
    reader, below = await asyncio.open_connection(sock=ours)
    theirs.shutdown(socket.SHUT_WR)
    near = TlsStream(TcpStream(reader, below), contexts[0])
    with pytest.raises(ssl.SSLError):
        await near.handshake()
    theirs.close()
    below.transport.abort()


def _client(context: ssl.SSLContext, end: socket.socket) -> ssl.SSLSocket:
    return context.wrap_socket(end, server_hostname="example.com", suppress_ragged_eofs=False)


@pytest.mark.parametrize("cut", [True, False])
async def test_what_was_cut_short_does_not_end_as_if_it_were_whole(contexts: Contexts, *, cut: bool) -> None:
    server, client = contexts
    client.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    source = await pair(contexts, we_serve=False)
    ours, theirs = socket.socketpair()
    reader, below = await asyncio.open_connection(sock=ours)
    near = TlsStream(TcpStream(reader, below), server)
    near.passes_on(source.near)
    theirs.settimeout(30)
    far = asyncio.create_task(asyncio.to_thread(_client, client, theirs))
    async with asyncio.timeout(30):
        await near.handshake()
        guest = await far
        source.writer.write(b"part")
        await source.writer.drain()
        assert await source.near.readexactly(4) == b"part"
        source.writer.transport.abort() if cut else source.writer.close()
        assert await source.near.read() == b""
        near.write(b"part")
        await near.end()
        assert await asyncio.to_thread(guest.recv, 4) == b"part"
        if cut:
            with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
                await asyncio.to_thread(guest.recv, 1)
        else:
            assert await asyncio.to_thread(guest.recv, 1) == b""
    guest.close()
    for writer in (source.below, source.writer, below):
        writer.transport.abort()
