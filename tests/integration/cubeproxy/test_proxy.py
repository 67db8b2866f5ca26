"""CubeProxy through the wire: where requests go, what it says itself, and that it holds nothing back."""

from __future__ import annotations

import asyncio
import io
import subprocess
import time

import aiohttp
import pytest

from tests.integration.cubeproxy.conftest import DOMAIN, SANDBOX, Guest, Proxy, route
from tests.support.ports import free_port


@pytest.mark.parametrize("suffix", ["", "-6532622b", "-6532622b-more"])
async def test_host_names_route_and_what_old_sdks_append_is_ignored(proxy: Proxy, guest: Guest, suffix: str) -> None:
    host = f"{proxy.guest_port}-{SANDBOX}{suffix}.{DOMAIN}"
    async with proxy.get("/a%2Fb?q=%20", host=host) as response:
        assert response.status == 200
        assert await response.text() == f"GET /a%2Fb?q=%20 host={host}"


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", f"sandbox.{DOMAIN}"])
async def test_headers_route_on_hosts_that_name_no_sandbox(proxy: Proxy, guest: Guest, host: str) -> None:
    headers = {"E2b-Sandbox-Id": SANDBOX, "E2b-Sandbox-Port": str(proxy.guest_port)}
    async with proxy.get(host=host, **headers) as response:
        assert response.status == 200


async def test_a_host_name_beats_headers(proxy: Proxy, guest: Guest) -> None:
    headers = {"E2b-Sandbox-Id": "i" + "b" * 20, "E2b-Sandbox-Port": "1"}
    async with proxy.get(host=proxy.host(), **headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("host", "headers", "says"),
    [
        ("nowhere.invalid", {}, "Invalid host"),
        (f"x.{DOMAIN}", {}, "Invalid host"),
        (f"8000-{SANDBOX}.evil.{DOMAIN}", {}, "Invalid host"),
        (f"8000-{SANDBOX}.{DOMAIN}.evil", {}, "Invalid host"),
        (f"8000-{SANDBOX}x{DOMAIN}", {}, "Invalid host"),
        (f"-{SANDBOX}.{DOMAIN}", {}, "Invalid host"),
        (f"0-{SANDBOX}.{DOMAIN}", {}, "Invalid sandbox port"),
        (f"65536-{SANDBOX}.{DOMAIN}", {}, "Invalid sandbox port"),
        ("localhost", {}, "missing header"),
        ("localhost", {"E2b-Sandbox-Id": SANDBOX}, "missing header"),
        ("localhost", {"E2b-Sandbox-Id": "../v1/keys", "E2b-Sandbox-Port": "1"}, "Invalid sandbox ID"),
        ("localhost", {"E2b-Sandbox-Id": SANDBOX, "E2b-Sandbox-Port": "1e3"}, "Invalid sandbox port"),
    ],
)
async def test_bad_targets_are_400_and_nobody_is_asked(
    proxy: Proxy, host: str, headers: dict[str, str], says: str
) -> None:
    async with proxy.get(host=host, **headers) as response:
        assert response.status == 400
        assert says in await response.text()
    assert proxy.master.asked == []


async def test_unknown_sandbox_is_the_502_that_sdks_look_for(proxy: Proxy) -> None:
    async with proxy.get(host=proxy.host(8000, "i" + "z" * 20)) as response:
        body = await response.json()
        assert response.status == 502
        assert "was not found" in body["message"]
        assert (body["code"], body["sandboxId"]) == (502, "i" + "z" * 20)


async def test_closed_port_is_told_apart(proxy: Proxy) -> None:
    proxy.publish()
    async with proxy.get(host=proxy.host(free_port())) as response:
        assert response.status == 502
        assert "port is not open" in (await response.json())["message"]


async def test_browsers_get_a_page(proxy: Proxy) -> None:
    headers = {"Accept": "text/html,*/*", "User-Agent": "Mozilla/5.0"}
    async with proxy.get(host=proxy.host(8000, "i" + "z" * 20), **headers) as response:
        assert response.content_type == "text/html"
        assert "was not found" in await response.text()


async def test_a_guests_own_502_is_its_own(proxy: Proxy, guest: Guest) -> None:
    async with proxy.get("/own-502", host=proxy.host()) as response:
        assert (response.status, await response.text()) == (502, "the guest's own")


@pytest.mark.parametrize(
    "path",
    [
        "/init",
        "/init/",
        "//init",
        "/%69nit",
        "/./init",
        "/x/../init",
        "/init?x=1",
        "/fsfreeze",
        "/volumes/file",
        "/volumes/release",
        "/trust",
        "/upgrade",
        "/logs",
        "/logs/?after=0",
    ],
)
async def test_internal_agent_routes_are_hidden(proxy: Proxy, path: str) -> None:
    proxy.publish()
    async with proxy.get(path, host=proxy.host(49983)) as response:
        assert response.status == 404


async def test_the_same_paths_on_other_ports_are_the_users(proxy: Proxy, guest: Guest) -> None:
    async with proxy.get("/init", host=proxy.host()) as response:
        assert response.status == 200


async def test_routes_missing_in_redis_come_from_the_master_once(proxy: Proxy, guest: Guest) -> None:
    other = "i" + "c" * 20
    proxy.master.routes[other] = route()
    for _ in range(3):
        async with proxy.get(host=proxy.host(sandbox=other)) as response:
            assert response.status == 200
    assert proxy.master.asked == [other]


async def test_a_route_that_is_dropped_is_gone_at_once(proxy: Proxy, guest: Guest) -> None:
    async with proxy.get(host=proxy.host()) as response:
        assert response.status == 200
    proxy.publish(address=None)
    async with asyncio.timeout(5):
        while True:
            async with proxy.get(host=proxy.host()) as response:
                if response.status == 502:
                    assert "was not found" in (await response.json())["message"]
                    break


async def test_nobody_to_ask_is_a_503_and_not_an_end(proxy: Proxy) -> None:
    proxy.master.socket.rename(proxy.master.socket.with_suffix(".away"))
    try:
        async with proxy.get(host=proxy.host(8000, "i" + "y" * 20)) as response:
            assert response.status == 503
    finally:
        proxy.master.socket.with_suffix(".away").rename(proxy.master.socket)


async def test_streams_are_not_held_back(proxy: Proxy, guest: Guest) -> None:
    async with proxy.get("/stream", host=proxy.host()) as response:
        assert await response.content.readexactly(5) == b"first"
        guest.go_on.set()
        assert await response.content.read() == b"second"


async def test_a_stream_that_breaks_does_not_end_cleanly(proxy: Proxy, guest: Guest) -> None:
    async with proxy.get("/break", host=proxy.host()) as response:
        assert await response.content.readexactly(5) == b"first"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


async def test_websockets_pass(proxy: Proxy, guest: Guest) -> None:
    url = f"http://127.0.0.1:{proxy.http_port}/socket"
    async with proxy.session.ws_connect(url, headers={"Host": proxy.host()}) as connection:
        await connection.send_str("hello")
        assert (await connection.receive(timeout=10)).data == "echo hello"


async def test_uploads_of_any_size_pass(proxy: Proxy, guest: Guest) -> None:
    url = f"http://127.0.0.1:{proxy.http_port}/upload"
    size = 24 * 2**20
    async with proxy.session.post(url, data=io.BytesIO(bytes(size)), headers={"Host": proxy.host()}) as response:
        assert await response.text() == str(size)


async def test_tls_offers_http2_and_the_api_host_says_when_it_is_down(proxy: Proxy, guest: Guest) -> None:
    async def curl(host: str) -> list[str]:
        done = await asyncio.to_thread(
            subprocess.run,
            [
                *("curl", "-s", "--http2", "--max-time", "20", "--cacert", str(proxy.ca)),
                *("--resolve", f"{host}:{proxy.https_port}:127.0.0.1"),
                *("-w", "\n%{http_version} %{http_code}", f"https://{host}:{proxy.https_port}/"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    assert (await curl(proxy.host()))[-1] == "2 200"
    api = await curl(f"api.{DOMAIN}")
    assert api[-1] == "2 503"
    assert "journalctl -u cube-api" in api[0]


async def test_api_keys_are_not_taken_in_clear(proxy: Proxy) -> None:
    async with proxy.get("/sandboxes", host=f"api.{DOMAIN}") as response:
        assert response.status == 400
        assert "https://" in (await response.json())["message"]


async def test_redis_that_is_emptied_costs_a_question_and_no_error(proxy: Proxy, guest: Guest) -> None:
    proxy.master.routes[SANDBOX] = route()
    with proxy.redis.client() as client:
        client.flushall()
        client.publish("cube:routes", SANDBOX)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        async with proxy.get(host=proxy.host()) as response:
            assert response.status == 200
