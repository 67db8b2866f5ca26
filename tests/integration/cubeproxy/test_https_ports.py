"""Ports whose services serve TLS themselves: reached as others are, over TLS that trusts anybody."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.integration.cubeproxy.conftest import SANDBOX, Guest, Proxy
from tests.integration.cubeproxy.test_protocols import http2
from tests.support.certificates import tls_contexts
from tests.support.ports import free_port
from tests.support.waiting import eventually

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(port: int, accept: Accept, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Run `accept` for each connection, and see each of them closed."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await accept(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            serving.remove(task)

    async with await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls):
        yield
        await eventually(lambda: not serving)


@dataclass
class Service:
    """A guest's TLS service. Its certificate is for another name and comes from nobody."""

    guest: Guest
    context: ssl.SSLContext
    port: int = field(default_factory=free_port)
    server_names: list[str | None] = field(default_factory=list)
    protocols: list[str | None] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        tls = request.transport.get_extra_info("ssl_object")
        self.protocols.append(tls.selected_alpn_protocol())
        return await self.guest.handle(request)

    @asynccontextmanager
    async def opened(self, delay_s: float = 0) -> AsyncIterator[None]:
        server = web.Server(self.handle)
        runner = web.ServerRunner(server)
        await runner.setup()

        async def start() -> None:
            await asyncio.sleep(delay_s)
            await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self.context).start()

        task = asyncio.create_task(start())
        if not delay_s:
            await task
        yield
        await task
        # The proxy keeps no connection.
        await eventually(lambda: not server.connections)
        await runner.cleanup()


@pytest.fixture
def service(proxy: Proxy, tmp_path: Path) -> Service:
    context, _ = tls_contexts(tmp_path, "somebody.else.example")
    context.set_alpn_protocols(["h2", "http/1.1"])
    made = Service(Guest(), context)

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        made.server_names.append(name)

    context.sni_callback = note
    proxy.publish(https_ports=[1, made.port])
    return made


async def seen_headers(proxy: Proxy, host: str, **headers: str) -> dict[str, str]:
    async with proxy.get("/headers", host=host, **headers) as response:
        assert response.status == 200
        return {name.lower(): value for name, value in await response.json()}


async def test_the_service_is_asked_over_tls_and_sees_its_host(proxy: Proxy, service: Service) -> None:
    host = proxy.host(service.port)
    async with service.opened():
        seen = await seen_headers(proxy, host)
        # HTTP/1.1, also of clients that speak HTTP/2.
        async with http2(proxy, host) as connection:
            assert await connection.until(connection.get(host, "/headers")) == "end"
    assert (seen["host"], seen["x-forwarded-proto"], seen["connection"]) == (host, "http", "close")
    assert service.server_names == [host, host]
    assert service.protocols == [None, None]


async def test_other_ports_of_the_sandbox_stay_plain(proxy: Proxy, service: Service, guest: Guest) -> None:
    proxy.publish(https_ports=[service.port])
    async with proxy.get("/plain", host=proxy.host()) as response:
        assert await response.text() == f"GET /plain host={proxy.host()}"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_either_version_of_tls_will_do(proxy: Proxy, service: Service, version: ssl.TLSVersion) -> None:
    service.context.minimum_version = service.context.maximum_version = version
    async with service.opened():
        await seen_headers(proxy, proxy.host(service.port))


async def test_a_mask_is_the_server_name_without_its_port(proxy: Proxy, service: Service) -> None:
    proxy.publish(https_ports=[service.port], mask_request_host="localhost:${PORT}")
    async with service.opened():
        assert (await seen_headers(proxy, proxy.host(service.port)))["host"] == f"localhost:{service.port}"
    assert service.server_names == ["localhost"]


@pytest.mark.parametrize("delay_s", [0, 0.15])
async def test_websockets_and_streams_pass(proxy: Proxy, service: Service, delay_s: float) -> None:
    """Also through the tries of a service that is just starting."""
    url = f"http://127.0.0.1:{proxy.http_port}/socket"
    host = proxy.host(service.port)
    async with service.opened(delay_s), proxy.session.ws_connect(url, headers={"Host": host}) as connection:
        await connection.send_str("x" * 2**20)
        assert (await connection.receive(timeout=10)).data == "echo " + "x" * 2**20
        async with proxy.get("/stream", host=host) as response:
            assert await response.content.readexactly(5) == b"first"
            service.guest.go_on.set()
            assert await response.content.read() == b"second"
        async with proxy.get("/break", host=host) as response:
            assert await response.content.readexactly(5) == b"first"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()


@pytest.mark.parametrize("delay_s", [0.03, 0.15, 0.3])
async def test_a_service_that_is_just_starting_is_waited_for(proxy: Proxy, service: Service, delay_s: float) -> None:
    host, size = proxy.host(service.port), 8 * 2**20
    url = f"http://127.0.0.1:{proxy.http_port}/upload"
    async with (
        service.opened(delay_s),
        proxy.session.post(url, data=io.BytesIO(bytes(size)), headers={"Host": host}) as response,
    ):
        assert await response.text() == str(size)
        assert await seen_headers(proxy, host)
    assert len(service.guest.seen) == 2
    assert service.server_names == [host, host]


async def test_a_closed_port_is_told_as_one_of_a_plain_service(proxy: Proxy, service: Service) -> None:
    async with proxy.get(host=proxy.host(service.port)) as response:
        answer = await response.json()
    assert answer == {
        "sandboxId": SANDBOX,
        "message": "The sandbox is running but port is not open",
        "code": 502,
        "port": service.port,
    }


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def keep_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("accept", [refuse, hang_up, keep_silent])
async def test_a_service_that_does_not_speak_tls_is_told_so(proxy: Proxy, service: Service, accept: Accept) -> None:
    async with listening(service.port, accept), proxy.get(host=proxy.host(service.port)) as response:
        assert response.status == 502
        message = (await response.json())["message"]
    assert message == (
        "The sandbox is running but the service on this port does not speak TLS: its network.httpsPorts name the port"
    )


async def test_what_a_service_took_is_not_sent_again(proxy: Proxy, service: Service) -> None:
    taken = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    url = f"http://127.0.0.1:{proxy.http_port}/"
    async with (
        listening(service.port, take, service.context),
        proxy.session.post(url, headers={"Host": proxy.host(service.port)}) as response,
    ):
        assert response.status == 502
        assert "does not speak TLS" not in await response.text()
    assert len(taken) == 1


async def test_no_session_of_one_connection_is_offered_in_the_next(proxy: Proxy, service: Service) -> None:
    """The address may have another owner by then."""
    reused = []
    service.context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reused.append(writer.get_extra_info("ssl_object").session_reused)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with listening(service.port, answer, service.context):
        for _ in range(2):
            async with proxy.get(host=proxy.host(service.port)) as response:
                assert response.status == 200
    assert reused == [False, False]


async def test_a_sandbox_that_is_gone_is_told_as_ever(proxy: Proxy, service: Service) -> None:
    proxy.publish(address=None)
    async with proxy.get(host=proxy.host(service.port)) as response:
        assert "was not found" in (await response.json())["message"]
