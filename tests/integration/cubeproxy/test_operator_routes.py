"""What reaches CubeAPI from outside: nothing of the operator's."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.integration.cubeproxy.conftest import DOMAIN, Nginx

Ask = Callable[..., Awaitable[int]]


@pytest.fixture
async def seen(nginx: Nginx) -> AsyncIterator[list[web.BaseRequest]]:
    """Requests that an API behind the proxy got."""
    requests: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        requests.append(request)
        return web.Response(text="ok")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", nginx.api_port).start()
    yield requests
    await runner.cleanup()


@pytest.fixture
async def ask(nginx: Nginx) -> AsyncIterator[Ask]:
    tls = ssl.create_default_context(cafile=str(nginx.ca))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def ask(path: str, **headers: str) -> int:
            url = URL(f"https://127.0.0.1:{nginx.https_port}{path}", encoded=True)
            host = f"api.{DOMAIN}"
            async with session.get(url, headers={"Host": host, **headers}, ssl=tls, server_hostname=host) as response:
                return response.status

        yield ask


@pytest.mark.parametrize(
    "path",
    [
        "/nodes",
        "/nodes/cube-1",
        "/admin/sandboxes/running-counts",
        "//admin/teams/x/api-keys",
        "/%61dmin/teams/x/sandboxes/kill",
        "/admin%2Fteams",
        "/./nodes",
        "/x/../nodes/cube-1",
    ],
)
async def test_the_operators_routes_are_not_there(ask: Ask, seen: list[web.BaseRequest], path: str) -> None:
    assert await ask(path) == 404
    assert seen == []


async def test_others_pass_without_the_operators_token(ask: Ask, seen: list[web.BaseRequest]) -> None:
    assert await ask("/v2/sandboxes?x=%2Fadmin", **{"X-Admin-Token": "a" * 64, "X-API-Key": "k"}) == 200
    (request,) = seen
    assert "X-Admin-Token" not in request.headers
    assert request.headers["X-API-Key"] == "k"
    assert await ask("/nodes-of-something-else") == 200


async def test_what_a_client_says_of_its_own_address_is_not_believed(ask: Ask, seen: list[web.BaseRequest]) -> None:
    assert await ask("/v2/sandboxes", **{"X-Forwarded-For": "203.0.113.9"}) == 200
    assert seen[0].headers["X-Forwarded-For"] == "127.0.0.1"
