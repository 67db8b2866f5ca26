"""Who may call, how quickly a revoked key dies, and what failing too often costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import cast, get_args

import httpx
import pytest
from fastapi import FastAPI, Request

from appliance.clients.master import MasterClient
from appliance.common.clock import FakeClock
from appliance.common.http import install_error_handlers
from appliance.contracts.e2b_access import ScopeName
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.failures import FailureLimit, client_of
from appliance.cubeapi.key_cache import KeyCache
from appliance.cubeapi.routes import templates
from appliance.cubeapi.scopes import scope_of
from appliance.cubeapi.settings import CubeApiSettings
from appliance.domain.access import Scope
from appliance.domain.errors import Forbidden, RateLimited, Unauthenticated, Unavailable
from tests.support.fake_master import FakeMaster

KEY = "e2b_" + "a" * 40
TTL = timedelta(seconds=1)
RESOLVED = ResolvedKey(key_id="k", team_id="t", team_slug="t")


class Answers:
    """CubeMaster's word on one key, slow if a test wants."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, digest: str) -> ResolvedKey:
        self.asked += 1
        await self.go_on.wait()
        if self.error:
            raise self.error
        return RESOLVED


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def answers() -> Answers:
    return Answers()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_key_in_use_is_asked_about_beside_its_requests(clock: FakeClock, answers: Answers) -> None:
    cache = KeyCache(answers, clock=clock, ttl=TTL)
    await cache.get("d")
    answers.go_on.clear()
    for _ in range(10):
        clock.advance(timedelta(milliseconds=90))
        # None of these waits, although the answer does not come.
        await asyncio.wait_for(cache.get("d"), 1)
    assert answers.asked == 2
    answers.go_on.set()
    await settled()
    clock.advance(timedelta(milliseconds=500))
    await cache.get("d")
    await cache.close()


async def test_a_revoked_key_is_dead_a_second_after_it_was_asked_about(clock: FakeClock, answers: Answers) -> None:
    cache = KeyCache(answers, clock=clock, ttl=TTL)
    answers.go_on.clear()
    first = asyncio.create_task(cache.get("d"))
    await settled()
    # Slow on its way: the second began when the question was sent.
    clock.advance(timedelta(milliseconds=400))
    answers.go_on.set()
    await first
    answers.error = Unauthenticated("revoked")
    clock.advance(timedelta(milliseconds=599))
    await cache.get("d")
    clock.advance(timedelta(milliseconds=1))
    with pytest.raises(Unauthenticated):
        await cache.get("d")
    assert not cache.has_seen("d")


async def test_a_silent_master_does_not_end_what_is_known(clock: FakeClock, answers: Answers) -> None:
    cache = KeyCache(answers, clock=clock, ttl=TTL)
    await cache.get("d")
    answers.error = Unavailable("away")
    clock.advance(timedelta(milliseconds=700))
    await cache.get("d")
    await settled()
    await cache.get("d")
    clock.advance(timedelta(milliseconds=300))
    with pytest.raises(Unavailable):
        await cache.get("d")


async def test_one_question_serves_all_who_wait_and_outlives_the_first(clock: FakeClock, answers: Answers) -> None:
    cache = KeyCache(answers, clock=clock, ttl=TTL)
    answers.go_on.clear()
    waiting = [asyncio.create_task(cache.get("d")) for _ in range(5)]
    await settled()
    waiting[0].cancel()
    answers.go_on.set()
    assert await asyncio.gather(*waiting[1:]) == [RESOLVED] * 4
    assert answers.asked == 1


def test_failures_use_up_a_bucket_that_fills_again(clock: FakeClock) -> None:
    limit = FailureLimit(burst=3, per_s=0.5, clock=clock)
    for _ in range(3):
        limit.check("a")
        limit.failed("a")
    with pytest.raises(RateLimited) as caught:
        limit.check("a")
    assert caught.value.retry_after_s == 2
    limit.check("b")
    clock.advance(timedelta(seconds=2))
    limit.check("a")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("", "192.0.2.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.7, 203.0.113.9", "203.0.113.9"),
        ("nonsense", "unknown"),
    ],
)
def test_the_client_is_whom_the_proxy_saw(forwarded: str, client: str) -> None:
    assert client_of(request(forwarded)) == client


def test_a_customers_ipv6_addresses_share_a_bucket() -> None:
    assert client_of(request("2001:db8:1:2::1")) == client_of(request("2001:db8:1:2:ffff::9"))
    assert client_of(request("2001:db8:1:2::1")) != client_of(request("2001:db8:1:3::1"))


def request(forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    return Request({"type": "http", "headers": headers, "client": ("192.0.2.1", 1)})


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v2/sandboxes", Scope.SANDBOXES),
        ("/sandboxes/{path_id}/metrics", Scope.SANDBOXES),
        ("/snapshots", Scope.SANDBOXES),
        ("/v3/templates", Scope.TEMPLATES),
        ("/secrets/{secret_id}", Scope.SECRETS),
        ("/teams", None),
        ("/teams/{team_id}/metrics/max", Scope.SANDBOXES),
    ],
)
def test_the_first_word_of_a_path_decides_its_scope(path: str, scope: Scope | None) -> None:
    assert scope_of(path) is scope


def test_the_wire_knows_every_scope() -> None:
    assert set(get_args(ScopeName)) == set(Scope)


def test_a_path_nobody_thought_of_is_open_to_nobody() -> None:
    for path in ("/", "/v2", "/something-new"):
        with pytest.raises(Forbidden):
            scope_of(path)


@pytest.fixture
async def api(clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    master = FakeMaster()
    master.add_key(KEY, "team-a")
    client = cast(MasterClient, master)
    limit = FailureLimit(burst=3, per_s=1, clock=clock)
    app = FastAPI()
    install_error_handlers(app)
    authenticate = Authenticator(client, clock=clock, ttl=TTL, failures=limit)
    app.include_router(templates.router(client, authenticate, CubeApiSettings()))
    transport = httpx.ASGITransport(app=app, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        yield http


async def test_who_fails_too_often_is_429_while_keys_in_use_go_on(api: httpx.AsyncClient, clock: FakeClock) -> None:
    good, bad = {"X-API-Key": KEY}, {"X-API-Key": "e2b_" + "c" * 40}
    assert (await api.get("/templates", headers=good)).status_code == 200
    assert [(await api.get("/templates", headers=bad)).status_code for _ in range(4)] == [401, 401, 401, 429]
    limited = await api.get("/templates")
    assert (limited.status_code, limited.json()["code"], limited.headers["Retry-After"]) == (429, 429, "1")
    assert (await api.get("/templates", headers=good)).status_code == 200
    elsewhere = {**bad, "X-Forwarded-For": "203.0.113.9"}
    assert (await api.get("/templates", headers=elsewhere)).status_code == 401
    clock.advance(timedelta(seconds=1))
    assert (await api.get("/templates", headers=bad)).status_code == 401
