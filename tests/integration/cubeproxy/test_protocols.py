"""HTTP/2 with many streams, WebSockets over TLS, and what a browser sees."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from aiohttp import web

from tests.integration.cubeproxy.conftest import DOMAIN, Guest, Proxy
from tests.integration.cubeproxy.test_dial import starting
from tests.support.ports import free_port

STREAMS = 200


@dataclass
class Http2:
    """One HTTP/2 connection through which any number of requests go side by side."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: h2.connection.H2Connection
    status: dict[int, int] = field(default_factory=dict)
    bodies: dict[int, bytearray] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def get(self, host: str, path: str, *extra: tuple[str, str]) -> int:
        stream = self.connection.get_next_available_stream_id()
        pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)]
        self.connection.send_headers(stream, [*pseudo, *extra], end_stream=True)
        self.bodies[stream] = bytearray()
        self.flush()
        return stream

    def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())

    async def until(self, stream: int, *, received: int | None = None) -> str | None:
        """Wait for the end of a stream, or for so many bytes of it. Return how it ended."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(
                lambda: stream in self.ended or (received is not None and len(self.bodies[stream]) >= received)
            )
        return self.ended.get(stream)

    async def read(self) -> None:
        while data := await self.reader.read(1 << 16):
            async with self.changed:
                for event in self.connection.receive_data(data):
                    self._take(event)
                self.changed.notify_all()
            self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.status[event.stream_id] = int(dict(event.headers)[b":status"])
            case h2.events.DataReceived():
                self.bodies[event.stream_id] += event.data
                # A stream that was reset right after its data takes no acknowledgement.
                with suppress(h2.exceptions.StreamClosedError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.ended[event.stream_id] = "end"
            case h2.events.StreamReset():
                self.ended[event.stream_id] = "reset"


def tls(proxy: Proxy, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(proxy.ca))
    context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def http2(proxy: Proxy, host: str) -> AsyncIterator[Http2]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", proxy.https_port, ssl=tls(proxy, "h2", "http/1.1"), server_hostname=host
    )
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
    opened = Http2(reader, writer, h2.connection.H2Connection(config))
    opened.connection.initiate_connection()
    opened.flush()
    reading = asyncio.create_task(opened.read())
    try:
        yield opened
    finally:
        reading.cancel()
        writer.transport.abort()
        with suppress(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0)


@asynccontextmanager
async def cube_api(proxy: Proxy, guest: Guest) -> AsyncIterator[None]:
    """Let the guest's service stand where CubeAPI is."""
    runner = web.ServerRunner(web.Server(guest.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", proxy.api_port).start()
    yield
    await runner.cleanup()


@pytest.mark.parametrize("api", [True, False], ids=["api", "sandbox"])
async def test_more_than_a_hundred_streams_run_side_by_side(proxy: Proxy, guest: Guest, *, api: bool) -> None:
    host = f"api.{DOMAIN}" if api else proxy.host()
    async with cube_api(proxy, guest), http2(proxy, host) as connection:
        # The server says how many it takes.
        first = connection.get(host, "/")
        await connection.until(first)
        assert connection.connection.remote_settings.max_concurrent_streams >= STREAMS
        streams = [connection.get(host, "/stream") for _ in range(STREAMS)]
        for stream in streams:
            assert await connection.until(stream, received=5) is None
        guest.go_on.set()
        for stream in streams:
            assert await connection.until(stream) == "end"
            assert connection.bodies[stream] == b"firstsecond"


async def test_streams_that_break_are_reset_and_do_not_end(proxy: Proxy, guest: Guest) -> None:
    async with http2(proxy, proxy.host()) as connection:
        assert await connection.until(connection.get(proxy.host(), "/break")) == "reset"
        both = [connection.get(proxy.host(), "/break") for _ in range(2)]
        assert [await connection.until(one) for one in both] == ["reset", "reset"]


async def test_one_that_breaks_among_others_is_reset_and_they_go_on(proxy: Proxy, guest: Guest) -> None:
    async with http2(proxy, proxy.host()) as connection:
        other = connection.get(proxy.host(), "/stream")
        await connection.until(other, received=5)
        broken = connection.get(proxy.host(), "/break")
        await connection.until(broken, received=5)
        # nginx 1.22 sends the reset with the next frame of the connection, at the latest when the client speaks.
        async with asyncio.timeout(10):
            while broken not in connection.ended:
                connection.connection.ping(bytes(8))
                connection.flush()
                await asyncio.sleep(0.05)
        assert connection.ended[broken] == "reset"
        guest.go_on.set()
        assert await connection.until(other) == "end"


async def test_streams_of_one_connection_each_go_where_they_say(proxy: Proxy, guest: Guest) -> None:
    """A wildcard certificate lets clients reuse one connection for every name."""
    async with http2(proxy, proxy.host()) as connection:
        mine = connection.get(proxy.host(), "/headers")
        unknown = connection.get(proxy.host(8000, "i" + "z" * 20), "/")
        none = connection.get("nowhere.invalid", "/")
        for stream in (mine, unknown, none):
            await connection.until(stream)
        assert [connection.status[one] for one in (mine, unknown, none)] == [200, 502, 400]


async def test_a_second_host_in_http2_is_refused(proxy: Proxy, guest: Guest) -> None:
    other = proxy.host(sandbox="i" + "z" * 20)
    async with http2(proxy, proxy.host()) as connection:
        stream = connection.get(proxy.host(), "/", ("host", other))
        await connection.until(stream)
        assert connection.status[stream] == 400
    assert guest.seen == []


async def test_an_upload_over_http2_outlives_the_tries(proxy: Proxy, guest: Guest, tmp_path: Path) -> None:
    port, size = free_port(), 8 * 2**20
    host, file = proxy.host(port), tmp_path / "body"
    file.write_bytes(bytes(size))
    async with starting(guest, port, 0.15):
        done = await asyncio.to_thread(
            subprocess.run,
            [
                *("curl", "-s", "--http2", "--max-time", "20", "--cacert", str(proxy.ca)),
                *("--resolve", f"{host}:{proxy.https_port}:127.0.0.1", "-T", str(file), "-w", " %{http_version}"),
                f"https://{host}:{proxy.https_port}/upload",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == f"{size} 2"


async def test_websockets_pass_over_tls(proxy: Proxy, guest: Guest) -> None:
    connector = aiohttp.TCPConnector(ssl=tls(proxy, "http/1.1"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(
            f"https://127.0.0.1:{proxy.https_port}/socket",
            headers={"Host": proxy.host()},
            server_hostname=proxy.host(),
        ) as connection,
    ):
        await connection.send_str("x" * 2**20)
        assert (await connection.receive(timeout=10)).data == "echo " + "x" * 2**20


async def test_the_agent_gets_no_tunnels(proxy: Proxy) -> None:
    """In one, its internal routes would pass unseen."""
    seen: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    proxy.publish(address="127.0.0.8")
    async with await asyncio.start_server(take, "127.0.0.8", 49983):
        headers = {
            "Upgrade": "h2c",
            "Connection": "Upgrade, HTTP2-Settings",
            "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA",
        }
        async with proxy.get("/health", host=proxy.host(49983), **headers) as response:
            assert response.status == 200
    assert b"h2c" not in seen[0]
    assert b"connection: close" in seen[0].lower()


PAGE = {"Accept": "text/html,*/*;q=0.8", "User-Agent": "Mozilla/5.0"}


@pytest.mark.parametrize(
    ("headers", "page"),
    [
        (PAGE, True),
        ({**PAGE, "Sec-Fetch-Mode": "navigate"}, True),
        ({**PAGE, "Sec-Fetch-Mode": "cors"}, False),
        ({**PAGE, "X-Requested-With": "XMLHttpRequest"}, False),
        ({**PAGE, "Accept": "application/json"}, False),
        ({**PAGE, "User-Agent": "e2b-python-sdk/2.63.0"}, False),
    ],
)
async def test_pages_are_for_people(proxy: Proxy, headers: dict[str, str], *, page: bool) -> None:
    async with proxy.get(host=proxy.host(8000), **headers) as response:
        assert (response.status, response.content_type) == (502, "text/html" if page else "application/json")


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "8000-<b>", "8000-i%3Cb%3E", '8000-i"onload='])
async def test_no_answer_repeats_what_it_could_not_read(proxy: Proxy, hostile: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.http_port)
    with closing(writer):
        lines = [f"GET /{hostile} HTTP/1.1", f"Host: {hostile}.{DOMAIN}", *(f"{k}: {v}" for k, v in PAGE.items())]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert hostile not in answer
    assert "<b>" not in answer


@pytest.fixture(autouse=True)
def _no_leftover_in_cache(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.publish(address=None)


async def test_errors_are_json_with_the_status_in_it(proxy: Proxy) -> None:
    async with proxy.get(host=proxy.host(8000)) as response:
        assert json.loads(await response.text())["code"] == response.status == 502
        assert response.headers["Access-Control-Allow-Origin"] == "*"
