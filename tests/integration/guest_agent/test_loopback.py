"""Forwarding between two loopback addresses: 127.0.9.2 stands for the guest's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from guest_agent.loopback.forwarding import Forwarding
from guest_agent.loopback.sockets import Listener, ListeningSockets

OUTER = "127.0.9.2"
"""Of these tests alone: the kernels of the code interpreter's tests listen on 127.0.0.2."""
DEADLINE_S = 10


@dataclass
class Tables:
    """The kernel's tables as far as `port` goes; other programs of this machine are none of our business."""

    port: int = 0
    kernel: ListeningSockets = field(default_factory=ListeningSockets)

    def read(self) -> set[Listener]:
        return {listener for listener in self.kernel.read() if listener.port == self.port}


@pytest.fixture
async def tables() -> AsyncIterator[Tables]:
    tables = Tables()
    yield tables
    tables.kernel.close()


@pytest.fixture
async def forwarding(tables: Tables) -> AsyncIterator[Forwarding]:
    forwarding = Forwarding(OUTER, tables.read)
    yield forwarding
    forwarding.close()
    # One turn, for the connections that were cancelled.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def serve(tables: Tables, host: str = "127.0.0.1", port: int = 0) -> asyncio.Server:
    """Serve upper case: what a client says until it half-closes, in capitals."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, host, port)
    tables.port = server.sockets[0].getsockname()[1]
    return server


async def shout(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(OUTER, port)
    writer.write(text)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    finally:
        writer.close()
        await writer.wait_closed()


async def until_something_is_forwarded(forwarding: Forwarding) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not forwarding.ports:  # noqa: ASYNC110 - it tells nobody when it has looked
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_service_on_loopback_is_reached_from_outside(forwarding: Forwarding, tables: Tables, host: str) -> None:
    async with await serve(tables, host):
        with pytest.raises(ConnectionRefusedError):
            await shout(tables.port, b"too early")
        forwarding.refresh()
        large = b"a" * 1_000_000
        answers = await asyncio.gather(shout(tables.port, b"hello"), shout(tables.port, large))
        assert list(answers) == [b"HELLO", large.upper()]
        forwarding.refresh()
        assert await shout(tables.port, b"still there") == b"STILL THERE"


async def test_the_port_closes_with_the_service_and_is_free_for_the_next(
    forwarding: Forwarding, tables: Tables
) -> None:
    async with await serve(tables):
        forwarding.refresh()
        assert set(forwarding.ports) == {tables.port}
    forwarding.refresh()
    assert set(forwarding.ports) == set()
    async with await serve(tables, "0.0.0.0", tables.port):
        forwarding.refresh()
        assert set(forwarding.ports) == set()
        assert await shout(tables.port, b"direct") == b"DIRECT"


async def test_a_caller_of_a_service_that_is_gone_is_reset_and_the_port_closes(
    forwarding: Forwarding, tables: Tables
) -> None:
    async with await serve(tables):
        forwarding.refresh()
    # Bound and deaf: nobody else on this machine takes the port meanwhile.
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", tables.port))
        with pytest.raises(ConnectionError):
            await shout(tables.port, b"anybody?")
    assert set(forwarding.ports) == set()


async def test_a_reset_of_the_service_resets_the_caller(forwarding: Forwarding, tables: Tables) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.setblocking(False)
        tables.port = service.getsockname()[1]
        forwarding.refresh()
        reader, writer = await asyncio.open_connection(OUTER, tables.port)
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(service), DEADLINE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()


async def test_services_are_found_while_it_runs(
    forwarding: Forwarding, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guest_agent.loopback.forwarding.BUSY_INTERVAL_S", 0.01)
    forwarding.start()
    async with await serve(tables):
        await until_something_is_forwarded(forwarding)
        assert await shout(tables.port, b"hello") == b"HELLO"


async def test_a_request_ends_a_long_sleep(
    forwarding: Forwarding, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guest_agent.loopback.forwarding.BUSY_AFTER_REQUEST_S", 0.0)
    monkeypatch.setattr("guest_agent.loopback.forwarding.IDLE_INTERVAL_S", 3600.0)
    forwarding.start()
    monkeypatch.setattr("guest_agent.loopback.forwarding.BUSY_AFTER_REQUEST_S", 60.0)
    monkeypatch.setattr("guest_agent.loopback.forwarding.BUSY_INTERVAL_S", 0.01)
    async with await serve(tables):
        forwarding.touch()
        await until_something_is_forwarded(forwarding)
