"""A service that answers with what another one answers: caller, relay and source each on a socket of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from appliance.common.http import InternalClient, install_error_handlers
from appliance.common.relay import Relay
from tests.support.fake_node import serve_on
from tests.support.waiting import eventually

PIECE = bytes(64 * 1024)
MUCH = 64 * 2**20
"""More than all buffers on the way hold together."""
LONG = timedelta(seconds=60)


@dataclass
class Source:
    """Counts what passes, and tells how its calls ended."""

    received: int = 0
    sent: int = 0
    asked: int = 0
    left: int = 0
    """Callers that went away."""
    read_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Uploads to `/slow` are read once it is set."""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.put("/{how}")
        async def put(how: str, request: Request) -> Response:
            self.asked += 1
            if how == "refused":
                return Response('{"code": 409}', status_code=409)
            if how == "slow":
                await self.read_on.wait()
            try:
                async for piece in request.stream():
                    self.received += len(piece)
            except ClientDisconnect:
                self.left += 1
                raise
            return Response("done", status_code=201)

        @app.get("/{how}")
        async def get(how: str, request: Request) -> Response:
            self.asked += 1
            match how:
                case "never":
                    while not await request.is_disconnected():  # noqa: ASYNC110 - nothing tells of it
                        await asyncio.sleep(0.02)
                    self.left += 1
                    return Response()
                case "elsewhere":
                    return Response(status_code=307, headers={"Location": "/secret"})
                case "secret":
                    raise AssertionError("the redirect was followed")
                case "packed":
                    return Response(b"\x1f\x8bnot gzip", headers={"Content-Encoding": "gzip", "X-Guest": "1"})
                case "cut":
                    return StreamingResponse(self._cut())
            return StreamingResponse(self._much(request), headers={"Content-Length": str(MUCH)})

        return app

    async def _much(self, request: Request) -> AsyncIterator[bytes]:
        for _ in range(MUCH // len(PIECE)):
            if await request.is_disconnected():
                self.left += 1
                return
            yield PIECE
            self.sent += len(PIECE)

    async def _cut(self) -> AsyncIterator[bytes]:
        yield PIECE
        raise ClientDisconnect


@asynccontextmanager
async def relayed(
    directory: Path, source: Source, *, idle: timedelta = LONG
) -> AsyncIterator[tuple[aiohttp.ClientSession, Callable[[str], str]]]:
    app = FastAPI()
    install_error_handlers(app)
    client = InternalClient(f"unix://{directory}/source", service="cubelet")

    @app.api_route("/{how}", methods=["GET", "PUT"])
    async def relay(how: str, request: Request) -> Relay:
        takes_body = request.method == "PUT"
        return Relay(
            lambda body: client.exchange(request.method, f"/{how}", idle=idle, body=body if takes_body else None),
            media_type="application/octet-stream",
            idle=idle,
            takes_body=takes_body,
        )

    connector = aiohttp.UnixConnector(path=f"{directory}/relay", force_close=True)
    async with (
        serve_on(source.app(), directory / "source"),
        serve_on(app, directory / "relay"),
        client,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=50)) as session,
    ):
        yield session, lambda how: f"http://relay/{how}"


@pytest.fixture
def source() -> Source:
    return Source()


@dataclass
class Upload:
    """A body of `MUCH` bytes that counts what was taken of it."""

    taken: int = 0
    hold_at: int = MUCH
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def body(self) -> AsyncIterator[bytes]:
        while self.taken < MUCH:
            if self.taken >= self.hold_at:
                await self.go_on.wait()
            yield PIECE
            self.taken += len(PIECE)


async def test_an_upload_arrives_while_it_is_sent(source: Source, tmp_path: Path) -> None:
    upload = Upload(hold_at=MUCH // 2)
    async with relayed(tmp_path, source) as (http, url):
        sending = asyncio.create_task(_put(http, url("file"), upload))
        await eventually(lambda: source.received >= MUCH // 2)
        upload.go_on.set()
        assert await sending == (201, b"done")
    assert source.received == MUCH


async def test_what_is_not_read_is_not_taken_from_the_caller(source: Source, tmp_path: Path) -> None:
    upload = Upload()
    async with relayed(tmp_path, source) as (http, url):
        sending = asyncio.create_task(_put(http, url("slow"), upload))
        await eventually(lambda: source.asked == 1)
        before = -1
        while before != upload.taken:
            before = upload.taken
            await asyncio.sleep(0.3)
        assert upload.taken < MUCH // 2
        source.read_on.set()
        assert await sending == (201, b"done")


async def test_what_the_caller_does_not_read_is_not_asked_for(source: Source, tmp_path: Path) -> None:
    async with relayed(tmp_path, source) as (http, url), http.get(url("file")) as response:
        assert response.headers["Content-Length"] == str(MUCH)
        before = -1
        while before != source.sent:
            before = source.sent
            await asyncio.sleep(0.3)
        assert source.sent < MUCH // 2
        assert len(await response.read()) == MUCH


async def test_a_caller_that_goes_while_it_sends_ends_the_call(source: Source, tmp_path: Path) -> None:
    upload = Upload(hold_at=MUCH // 2)
    async with relayed(tmp_path, source) as (http, url):
        sending = asyncio.create_task(_put(http, url("file"), upload))
        await eventually(lambda: source.received >= MUCH // 2)
        sending.cancel()
        await eventually(lambda: source.left == 1)


@pytest.mark.parametrize("how", ["never", "file"])
async def test_a_caller_that_goes_while_it_waits_or_reads_ends_the_call(
    source: Source, tmp_path: Path, how: str
) -> None:
    async with relayed(tmp_path, source) as (http, url):
        asking = asyncio.create_task(_get_slowly(http, url(how)))
        await eventually(lambda: source.asked == 1)
        asking.cancel()
        await eventually(lambda: source.left == 1)


async def test_what_stands_still_ends_with_an_error(source: Source, tmp_path: Path) -> None:
    soon = timedelta(seconds=0.5)
    async with relayed(tmp_path, source, idle=soon) as (http, url):
        async with http.get(url("never")) as response:
            assert (response.status, (await response.json())["error_code"]) == (503, "DeadlineExceeded")
        await eventually(lambda: source.left == 1)
        # Nor does it wait for a caller that sends nothing any more.
        assert (await _put(http, url("file"), Upload(hold_at=MUCH // 2)))[0] == 503
        await eventually(lambda: source.left == 2)


async def test_nothing_is_sent_to_who_refuses_it(source: Source, tmp_path: Path) -> None:
    upload = Upload()
    async with (
        relayed(tmp_path, source) as (http, url),
        http.put(url("refused"), data=upload.body(), expect100=True) as response,
    ):
        assert (response.status, await response.read()) == (409, b'{"code": 409}')
    assert (upload.taken, source.received) == (0, 0)


async def test_the_source_says_neither_where_to_go_nor_what_it_is(source: Source, tmp_path: Path) -> None:
    async with relayed(tmp_path, source) as (http, url):
        async with http.get(url("elsewhere"), allow_redirects=False) as response:
            assert (response.status, "Location" in response.headers) == (307, False)
        async with http.get(url("packed")) as response:
            assert await response.read() == b"\x1f\x8bnot gzip"
            assert not {"Content-Encoding", "X-Guest"} & response.headers.keys()
            assert response.headers["Content-Type"] == "application/octet-stream"


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(source: Source, tmp_path: Path) -> None:
    async with relayed(tmp_path, source) as (http, url), http.get(url("cut")) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    async with InternalClient(f"unix://{tmp_path}/nothing", service="cubelet") as client:
        app = FastAPI()
        install_error_handlers(app)

        @app.get("/")
        async def relay() -> Relay:
            return Relay(
                lambda _: client.exchange("GET", "/", idle=LONG), media_type="x/y", idle=LONG, takes_body=False
            )

        connector = aiohttp.UnixConnector(path=f"{tmp_path}/relay")
        async with (
            serve_on(app, tmp_path / "relay"),
            aiohttp.ClientSession(connector=connector) as http,
            http.get("http://relay/") as response,
        ):
            assert response.status == 503
            assert "cubelet does not answer" in (await response.json())["message"]


async def _put(http: aiohttp.ClientSession, url: str, upload: Upload) -> tuple[int, bytes]:
    async with http.put(url, data=upload.body()) as response:
        return response.status, await response.read()


async def _get_slowly(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(url):
        await asyncio.sleep(3600)
