"""A real nginx with CubeProxy's configuration, a real Redis, and a guest and a CubeMaster that the tests play."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import redis
from aiohttp import web
from yarl import URL

from appliance.contracts.master import Route
from tests.support.cubeproxy import render_proxy
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server

DOMAIN = "cube.test"
SANDBOX = "i" + "a" * 20


def route(address: str | None = "127.0.0.1", **fields: object) -> dict[str, object]:
    """Return a route as CubeMaster writes it."""
    return Route.model_validate({"node": "n", "address": address} | fields).model_dump(mode="json")


@dataclass
class Master:
    """Answers route misses and wakes as CubeMaster does, and remembers who was asked for."""

    socket: Path
    routes: dict[str, dict[str, object]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    wakes: list[str] = field(default_factory=list)
    wake_status: int = 200
    on_wake: Callable[[str], Awaitable[None]] | None = None

    async def route(self, request: web.Request) -> web.Response:
        sandbox_id = request.match_info["id"]
        self.asked.append(sandbox_id)
        if sandbox_id not in self.routes:
            return web.json_response({"code": 404, "message": "not found"}, status=404)
        return web.json_response(self.routes[sandbox_id])

    async def wake(self, request: web.Request) -> web.Response:
        sandbox_id = request.match_info["id"]
        self.wakes.append(sandbox_id)
        if self.on_wake:
            await self.on_wake(sandbox_id)
        if self.wake_status != 200:
            return web.json_response({"code": self.wake_status, "message": "no"}, status=self.wake_status)
        self.routes[sandbox_id] |= {"state": "running", "address": "127.0.0.1"}
        return web.json_response(self.routes[sandbox_id])


@dataclass
class Proxy:
    http_port: int
    https_port: int
    ca: Path
    redis: RedisServer
    master: Master
    session: aiohttp.ClientSession
    guest_port: int
    api_port: int

    def host(self, port: int | None = None, sandbox: str = SANDBOX) -> str:
        return f"{self.guest_port if port is None else port}-{sandbox}.{DOMAIN}"

    def get(self, path: str = "/", *, host: str, **headers: str) -> aiohttp.client._RequestContextManager:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        return self.session.get(URL(url, encoded=True), headers={"Host": host, **headers})

    def publish(self, sandbox: str = SANDBOX, address: str | None = "127.0.0.1", **fields: object) -> None:
        """Do what CubeMaster does when a route changes."""
        with self.redis.client() as client:
            if address is None:
                client.delete(f"cube:route:{sandbox}")
            else:
                client.set(f"cube:route:{sandbox}", json.dumps(route(address, **fields)))
            client.publish("cube:routes", sandbox)


@pytest.fixture(scope="module")
def redis_in_module() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@dataclass
class Nginx:
    http_port: int
    https_port: int
    ca: Path
    master_socket: Path
    api_port: int


@pytest.fixture(scope="module")
def nginx(redis_in_module: RedisServer) -> Iterator[Nginx]:
    with tempfile.TemporaryDirectory(prefix="cube-px-") as name:
        base = Path(name)
        http_port, https_port, api_port = free_port(), free_port(), free_port()
        files = render_proxy(
            base / "p",
            DOMAIN,
            master_socket=base / "master.sock",
            redis_socket=redis_in_module.socket,
            http_port=http_port,
            https_port=https_port,
            api_address=f"127.0.0.1:{api_port}",
        )
        with (base / "log").open("wb") as log:
            process = subprocess.Popen(["nginx", "-c", files.config], stdout=log, stderr=log)
        try:
            give_up = time.monotonic() + 20
            while not _subscribed(redis_in_module):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"nginx did not start:\n{(base / 'log').read_text()}")
                time.sleep(0.05)
            yield Nginx(http_port, https_port, files.ca, base / "master.sock", api_port)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _subscribed(server: RedisServer) -> bool:
    with server.client() as client:
        try:
            return bool(client.pubsub_numsub("cube:routes")[0][1])
        except redis.ConnectionError:
            return False


@pytest.fixture
async def proxy(nginx: Nginx, redis_in_module: RedisServer) -> AsyncIterator[Proxy]:
    with redis_in_module.client() as client:
        client.flushall()
        client.publish("cube:routes", SANDBOX)
    master = Master(nginx.master_socket)
    app = web.Application()
    app.router.add_get("/v1/routes/{id}", master.route)
    app.router.add_post("/v1/routes/{id}/wake", master.wake)
    runner = web.AppRunner(app)
    await runner.setup()
    master.socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(master.socket)).start()
    async with aiohttp.ClientSession(
        auto_decompress=False, timeout=aiohttp.ClientTimeout(total=20), connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        yield Proxy(
            nginx.http_port,
            nginx.https_port,
            nginx.ca,
            redis_in_module,
            master,
            session,
            guest_port=free_port(),
            api_port=nginx.api_port,
        )
    await runner.cleanup()


class Guest:
    """A service in a guest: what it does with a request is the test's to say."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.seen: list[web.BaseRequest] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        match request.path:
            case "/stream":
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"first")
                await self.go_on.wait()
                await response.write(b"second")
                await response.write_eof()
                return response
            case "/break":
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"first")
                assert request.transport is not None
                request.transport.abort()
                return response
            case "/socket":
                connection = web.WebSocketResponse()
                await connection.prepare(request)
                async for message in connection:
                    await connection.send_str(f"echo {message.data}")
                return connection
            case "/upload":
                size = 0
                async for chunk in request.content.iter_any():
                    size += len(chunk)
                return web.Response(text=str(size))
            case "/headers":
                return web.json_response([[name, value] for name, value in request.headers.items()])
            case "/own-502":
                return web.Response(status=502, text="the guest's own")
        return web.Response(text=f"{request.method} {request.raw_path} host={request.host}")


@pytest.fixture
async def guest(proxy: Proxy) -> AsyncIterator[Guest]:
    guest = Guest()
    runner = web.ServerRunner(web.Server(guest.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", proxy.guest_port).start()
    proxy.publish()
    yield guest
    await runner.cleanup()
