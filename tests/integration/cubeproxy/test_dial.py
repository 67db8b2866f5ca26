"""Dialling guests: services that are just starting, ports that are closed, and requests that must not be sent twice."""

from __future__ import annotations

import asyncio
import io
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.integration.cubeproxy.conftest import Guest, Proxy
from tests.support.ports import free_port

ALL_DELAYS_S = 0.4


@asynccontextmanager
async def starting(guest: Guest, port: int, delay_s: float) -> AsyncIterator[None]:
    """Open `guest` on another port, `delay_s` from now."""
    runner = web.ServerRunner(web.Server(guest.handle))
    await runner.setup()

    async def start() -> None:
        await asyncio.sleep(delay_s)
        await web.TCPSite(runner, "127.0.0.1", port).start()

    task = asyncio.create_task(start())
    yield
    await task
    await runner.cleanup()


@pytest.mark.parametrize("delay_s", [0.03, 0.15, 0.3])
async def test_a_service_that_is_just_starting_is_waited_for(proxy: Proxy, guest: Guest, delay_s: float) -> None:
    port = free_port()
    async with starting(guest, port, delay_s), proxy.get("/headers", host=proxy.host(port)) as response:
        assert response.status == 200
        seen = {name.lower(): value for name, value in await response.json()}
    # As on a first try.
    assert seen["host"] == seen["x-forwarded-host"] == proxy.host(port)
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert len(guest.seen) == 1


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_outlives_the_tries(proxy: Proxy, guest: Guest, *, chunked: bool) -> None:
    port, size = free_port(), 24 * 2**20
    url = f"http://127.0.0.1:{proxy.http_port}/upload"

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(24):
            yield bytes(2**20)

    data = chunks() if chunked else io.BytesIO(bytes(size))
    async with (
        starting(guest, port, 0.15),
        proxy.session.post(url, data=data, headers={"Host": proxy.host(port)}) as response,
    ):
        assert await response.text() == str(size)
    assert len(guest.seen) == 1


async def test_streams_and_websockets_survive_the_tries(proxy: Proxy, guest: Guest) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{proxy.http_port}/socket"
    async with (
        starting(guest, port, 0.15),
        proxy.session.ws_connect(url, headers={"Host": proxy.host(port)}) as connection,
    ):
        await connection.send_str("hello")
        assert (await connection.receive(timeout=10)).data == "echo hello"
    port = free_port()
    async with starting(guest, port, 0.15), proxy.get("/break", host=proxy.host(port)) as response:
        assert await response.content.readexactly(5) == b"first"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    port = free_port()
    async with starting(guest, port, 0.15), proxy.get("/stream", host=proxy.host(port)) as response:
        assert await response.content.readexactly(5) == b"first"
        guest.go_on.set()
        assert await response.content.read() == b"second"


async def test_a_mask_and_header_routing_survive_the_tries(proxy: Proxy, guest: Guest) -> None:
    port = free_port()
    proxy.publish(mask_request_host="localhost:${PORT}")
    routing = {"E2b-Sandbox-Id": proxy.host().split("-")[1].split(".")[0], "E2b-Sandbox-Port": str(port)}
    async with starting(guest, port, 0.15), proxy.get("/headers", host="localhost", **routing) as response:
        seen = {name.lower(): value for name, value in await response.json()}
    assert (seen["host"], seen["x-forwarded-host"]) == (f"localhost:{port}", "localhost")


async def test_a_closed_port_is_told_after_all_tries_and_no_later(proxy: Proxy) -> None:
    proxy.publish()
    took = []
    for _ in range(5):
        started = time.monotonic()
        async with proxy.get(host=proxy.host(free_port())) as response:
            assert "port is not open" in (await response.json())["message"]
        took.append(time.monotonic() - started)
    assert min(took) >= ALL_DELAYS_S
    assert min(took) < ALL_DELAYS_S + 0.3


async def test_a_sandbox_that_is_gone_is_told_at_once(proxy: Proxy) -> None:
    async with proxy.get(host=proxy.host(8000)) as response:
        assert response.status == 502
    proxy.publish(address="127.0.0.9")
    async with proxy.get(host=proxy.host(8000)) as response:
        assert "port is not open" in await response.text()
    with proxy.redis.client() as client:  # and no message
        client.flushall()
    took = []
    for _ in range(3):
        started = time.monotonic()
        async with proxy.get(host=proxy.host(8000)) as response:
            assert "was not found" in await response.text()
        took.append(time.monotonic() - started)
    assert min(took) < 0.1


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_what_a_guest_took_is_not_sent_again(proxy: Proxy, method: str) -> None:
    taken = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    port = free_port()
    proxy.publish()
    server = await asyncio.start_server(take, "127.0.0.1", port)
    async with server:
        url = f"http://127.0.0.1:{proxy.http_port}/"
        async with proxy.session.request(method, url, headers={"Host": proxy.host(port)}) as response:
            assert response.status == 502
    assert len(taken) == 1


async def test_a_connection_is_only_made_to_be_used(proxy: Proxy) -> None:
    """A service that takes one connection gets the one with the request in it."""
    port = free_port()
    proxy.publish()

    async def serve_once() -> bytes:
        await asyncio.sleep(0.15)
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", port)) as server:
            server.setblocking(False)
            connection, _ = await loop.sock_accept(server)
        with connection:
            request = await loop.sock_recv(connection, 4096)
            await loop.sock_sendall(connection, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return request

    once = asyncio.create_task(serve_once())
    async with proxy.get("/once", host=proxy.host(port)) as response:
        assert await response.text() == "ok"
    assert (await once).startswith(b"GET /once HTTP/1.1\r\n")


async def test_many_closed_ports_at_once_hold_nobody_up(proxy: Proxy, guest: Guest) -> None:
    async def closed(port: int) -> str:
        async with proxy.get(host=proxy.host(port)) as response:
            return str((await response.json())["message"])

    port = free_port()
    asks = [asyncio.create_task(closed(port)) for _ in range(300)]
    async with proxy.get(host=proxy.host()) as response:
        assert response.status == 200
    assert set(await asyncio.gather(*asks)) == {"The sandbox is running but port is not open"}
