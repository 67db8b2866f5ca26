"""How long, and how many, connections may wait: the agent's own server in this process, with smaller limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from guest_agent import limits
from guest_agent.limits import BoundedProtocol

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TIMEOUT_S = 0.5


@pytest.fixture
async def connect(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 3)
    config = uvicorn.Config(PlainTextResponse("ok"), http=BoundedProtocol, ws="none", lifespan="off", log_config=None)
    config.load()
    state = uvicorn.server.ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: BoundedProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Return whether the server ends the connection without another word."""
    async with asyncio.timeout(10):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        return head.partition(b"\r\n")[0]


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nX"])
async def test_a_head_that_does_not_come_ends_the_connection(connect: Connect, beginning: bytes) -> None:
    reader, writer = await connect()
    writer.write(beginning)
    assert await is_closed(reader)


async def test_a_connection_that_is_kept_may_rest_but_not_dawdle(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(REQUEST)
    assert await answer(reader) == b"HTTP/1.1 200 OK"
    await asyncio.sleep(2 * TIMEOUT_S)
    writer.write(REQUEST)
    assert await answer(reader) == b"HTTP/1.1 200 OK"
    writer.write(REQUEST[:10])
    assert await is_closed(reader)


async def test_beyond_the_limit_connections_are_refused_until_one_ends(connect: Connect) -> None:
    first, *_ = held = [await connect() for _ in range(3)]
    for reader, writer in held:
        writer.write(REQUEST)
        await answer(reader)
    refused, _ = await connect()
    assert await is_closed(refused)
    first[1].close()
    await first[1].wait_closed()
    async with asyncio.timeout(10):
        while True:
            reader, writer = await connect()
            writer.write(REQUEST)
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                assert await answer(reader) == b"HTTP/1.1 200 OK"
                return
