from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from appliance.cubevs.egress.flow import Idleness, close_in_turn, pump, reset
from appliance.cubevs.egress.stream import PIECE, TcpStream

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """A stream whose kernel buffer takes little, and the socket at its other end, which nobody reads by itself."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    yield reader, writer, theirs
    writer.transport.abort()
    theirs.close()


async def source(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), PIECE):
        yield data[at : at + PIECE]


async def read_all(end: socket.socket) -> bytes:
    received = b""
    async with asyncio.timeout(30):
        while data := await asyncio.get_running_loop().sock_recv(end, 4096):
            received += data
    return received


@pytest.mark.parametrize("size", [0, 1, 30_000, 300_000])
async def test_a_pump_ends_when_all_of_it_has_gone(ends: Ends, size: int) -> None:
    reader, writer, theirs = ends
    data = bytes(range(250)) * (size // 250) or bytes(size)
    moved: list[int] = []
    pumping = asyncio.create_task(pump(source(data), TcpStream(reader, writer), moved=moved.append))
    for _ in range(20):
        await asyncio.sleep(0)
    assert pumping.done() is (size <= 1), "what the kernel has not taken is waited for"
    assert await read_all(theirs) == data
    await pumping
    assert sum(moved) == len(data)


async def test_a_pump_to_a_side_that_went_away_fails(ends: Ends) -> None:
    reader, writer, theirs = ends
    theirs.close()
    with pytest.raises(ConnectionError):
        await pump(source(bytes(300_000)), TcpStream(reader, writer), moved=lambda _: None)


async def test_the_other_side_may_read_before_it_ends(ends: Ends) -> None:
    reader, writer, theirs = ends
    writer.write(b"last words")
    closing = asyncio.create_task(close_in_turn(TcpStream(reader, writer), reader, writer))
    assert await read_all(theirs) == b"last words"
    theirs.close()
    await closing


async def test_a_reset_is_seen_as_one() -> None:
    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()
    finally:
        server.close()
        await server.wait_closed()


async def test_silence_ends_the_block() -> None:
    async def be_silent() -> None:
        async with Idleness(0.05):
            await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        await be_silent()


async def test_movement_puts_the_end_off(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    async with Idleness(100) as idleness:
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now + 99)
        idleness.moved()
        # The loop calls what is due by its clock: at 150 s the first end would have been, and the second is not yet.
        monkeypatch.setattr(loop, "time", lambda: now + 150)
        for _ in range(20):
            await asyncio.sleep(0)
        monkeypatch.undo()
