"""Private sandboxes: who is let in, and what the proxy says about a request to the services behind it."""

from __future__ import annotations

import hashlib

import pytest
from multidict import CIMultiDict

from tests.integration.cubeproxy.conftest import Guest, Proxy

TOKEN = "cd" * 32
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
HEADER = "E2b-Traffic-Access-Token"


@pytest.fixture
def private(proxy: Proxy, guest: Guest) -> Guest:
    proxy.publish(traffic_token_sha256=DIGEST)
    return guest


async def test_the_token_opens_a_private_sandbox_and_stays_outside_it(proxy: Proxy, private: Guest) -> None:
    async with proxy.get("/headers", host=proxy.host(), **{HEADER: TOKEN}) as response:
        assert response.status == 200
        assert TOKEN not in await response.text()


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), DIGEST, "\u00e9" * 32])
async def test_any_other_token_is_403(proxy: Proxy, private: Guest, token: str | None) -> None:
    headers = {} if token is None else {HEADER: token}
    async with proxy.get(host=proxy.host(), **headers) as response:
        assert response.status == 403
        assert HEADER.lower() in (await response.json())["message"]
    assert private.seen == []


async def test_a_token_that_is_sent_twice_is_none(proxy: Proxy, private: Guest) -> None:
    url = f"http://127.0.0.1:{proxy.http_port}/"
    headers = CIMultiDict([("Host", proxy.host()), (HEADER, TOKEN), (HEADER, TOKEN)])
    async with proxy.session.get(url, headers=headers) as response:
        assert response.status == 403


@pytest.mark.parametrize("digest", ["", "00", "z" * 64, DIGEST[:-2]])
async def test_a_digest_that_is_none_lets_nobody_in(proxy: Proxy, guest: Guest, digest: str) -> None:
    proxy.publish(traffic_token_sha256=digest)
    for token in ("", TOKEN):
        async with proxy.get(host=proxy.host(), **{HEADER: token}) as response:
            assert response.status == 403


async def test_the_agent_has_a_token_of_its_own(proxy: Proxy) -> None:
    proxy.publish(traffic_token_sha256=DIGEST)
    async with proxy.get("/health", host=proxy.host(49983)) as response:
        assert "port is not open" in (await response.json())["message"]


async def test_preflights_of_public_sandboxes_are_the_services_own(proxy: Proxy, guest: Guest) -> None:
    url = f"http://127.0.0.1:{proxy.http_port}/"
    headers = {"Host": proxy.host(), "Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    async with proxy.session.options(url, headers=headers) as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers
    assert guest.seen[0].headers["Origin"] == "https://a.example"


async def test_what_clients_say_about_themselves_is_not_believed(proxy: Proxy, guest: Guest) -> None:
    lies = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
    }
    async with proxy.get("/headers", host=proxy.host(), **lies) as response:
        seen = {name.lower(): value for name, value in await response.json()}
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert seen["x-forwarded-host"] == seen["host"] == proxy.host()
    assert not {"forwarded", "x-real-ip", "x-forwarded-port"} & seen.keys()


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        ("localhost:${PORT}", "localhost:{port}"),
        ("${PORT}.a.${PORT}", "{port}.a.{port}"),
        ("app.example", "app.example"),
    ],
)
async def test_a_mask_replaces_the_host(proxy: Proxy, guest: Guest, mask: str, shown: str) -> None:
    proxy.publish(mask_request_host=mask)
    async with proxy.get("/headers", host=proxy.host()) as response:
        seen = {name.lower(): value for name, value in await response.json()}
    assert seen["host"] == shown.format(port=proxy.guest_port)
    assert seen["x-forwarded-host"] == proxy.host()
