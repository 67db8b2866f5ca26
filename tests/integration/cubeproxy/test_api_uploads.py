"""Files of builds and of volumes pass through CubeProxy to CubeAPI and back as they come, and of any size."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.integration.cubeproxy.conftest import DOMAIN, Nginx, Proxy

SIZE = 24 * 2**20


class Api:
    """Tells what has arrived so far, and refuses what is sent to `/refused` before it has."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.received = 0
        self.go_on = asyncio.Event()
        """The second half of a download is sent once it is set."""
        self.cut_off = asyncio.Event()
        self.headers: dict[str, str] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        if request.path == "/refused":
            return web.json_response({"code": 413}, status=413)
        if request.method == "GET":
            return await self._send(request)
        async for chunk in request.content.iter_any():
            self.received += len(chunk)
            self.begun.set()
        return web.Response()

    async def _send(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(SIZE)})
        await response.prepare(request)
        try:
            await response.write(bytes(SIZE // 2))
            await self.go_on.wait()
            await response.write(bytes(SIZE // 2))
        except (ConnectionError, asyncio.CancelledError):
            self.cut_off.set()
            raise
        return response


@pytest.fixture
async def api(nginx: Nginx) -> AsyncIterator[Api]:
    api = Api()
    runner = web.ServerRunner(web.Server(api.handle, handler_cancellation=True))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", nginx.api_port).start()
    yield api
    await runner.cleanup()


async def put(proxy: Proxy, path: str, body: AsyncIterator[bytes], *, chunked: bool = False) -> int:
    headers = {} if chunked else {"Content-Length": str(SIZE)}
    async with ask(proxy, "PUT", path, data=body, headers=headers) as response:
        return response.status


def ask(
    proxy: Proxy, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    tls = ssl.create_default_context(cafile=str(proxy.ca))
    host = f"api.{DOMAIN}"
    url = URL(f"https://127.0.0.1:{proxy.https_port}{path}")
    return proxy.session.request(
        method, url, headers={"Host": host, **(headers or {})}, ssl=tls, server_hostname=host, **options
    )


async def test_an_upload_arrives_while_it_is_sent(proxy: Proxy, api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield bytes(SIZE // 2)
        # Only goes on when the first half has got through.
        await asyncio.wait_for(api.begun.wait(), 10)
        yield bytes(SIZE // 2)

    assert await put(proxy, "/templates/t/files/h", body()) == 200
    assert api.received == SIZE
    assert api.headers["content-length"] == str(SIZE)
    assert (api.headers["host"], api.headers["x-forwarded-proto"]) == (f"api.{DOMAIN}", "https")


async def test_a_refusal_reaches_whoever_is_still_sending(proxy: Proxy, api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(SIZE // 2**18):
            yield bytes(2**18)
            await asyncio.sleep(0.01)

    try:
        assert await put(proxy, "/refused", body()) == 413
    except aiohttp.ClientOSError as error:
        pytest.fail(f"the connection was cut before the answer: {error}")


async def test_an_upload_of_unknown_length_arrives_while_it_is_sent(proxy: Proxy, api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield bytes(SIZE // 2)
        await asyncio.wait_for(api.begun.wait(), 10)
        yield bytes(SIZE // 2)

    assert await put(proxy, "/volumecontent/vol_1/file?path=/x", body(), chunked=True) == 200
    assert api.received == SIZE
    assert "content-length" not in api.headers


async def test_a_download_arrives_while_it_is_sent(proxy: Proxy, api: Api) -> None:
    async with ask(proxy, "GET", "/volumecontent/vol_1/file?path=/x") as response:
        assert response.headers["Content-Length"] == str(SIZE)
        await response.content.readexactly(SIZE // 2)
        api.go_on.set()
        await response.content.readexactly(SIZE // 2)


async def test_a_download_that_nobody_reads_any_more_ends(proxy: Proxy, api: Api) -> None:
    async with ask(proxy, "GET", "/volumecontent/vol_1/file?path=/x") as response:
        await response.content.readexactly(1)
        response.close()
    await asyncio.wait_for(api.cut_off.wait(), 30)
