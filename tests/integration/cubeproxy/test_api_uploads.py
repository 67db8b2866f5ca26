"""Files for the template builder go through CubeProxy to CubeAPI as they come: not held back, and of any size."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

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
        self.headers: dict[str, str] = {}

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        if request.path == "/refused":
            return web.json_response({"code": 413}, status=413)
        async for chunk in request.content.iter_any():
            self.received += len(chunk)
            self.begun.set()
        return web.Response()


@pytest.fixture
async def api(nginx: Nginx) -> AsyncIterator[Api]:
    api = Api()
    runner = web.ServerRunner(web.Server(api.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", nginx.api_port).start()
    yield api
    await runner.cleanup()


async def put(proxy: Proxy, path: str, body: AsyncIterator[bytes]) -> int:
    tls = ssl.create_default_context(cafile=str(proxy.ca))
    host = f"api.{DOMAIN}"
    url = URL(f"https://127.0.0.1:{proxy.https_port}{path}")
    headers = {"Host": host, "Content-Length": str(SIZE)}
    async with proxy.session.put(url, data=body, headers=headers, ssl=tls, server_hostname=host) as response:
        return response.status


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
