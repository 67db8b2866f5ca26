"""CubeAPI's wire: statuses, bodies and headers that released SDKs depend on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from appliance.clients.master import MasterClient
from appliance.common.clock import FakeClock
from appliance.common.http import install_error_handlers
from appliance.cubeapi.app import public_code
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.routes import sandboxes, templates
from appliance.cubeapi.settings import CubeApiSettings
from appliance.domain.errors import QuotaExceeded
from tests.support.fake_master import FakeMaster

KEY = "e2b_" + "a" * 40
OTHER_TEAMS_KEY = "e2b_" + "b" * 40


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def master() -> FakeMaster:
    master = FakeMaster()
    master.add_key(KEY, "team-a")
    master.add_key(OTHER_TEAMS_KEY, "team-b")
    master.add_template("basetemplate", team_id="team-a", alias="base")
    return master


@pytest.fixture
async def api(master: FakeMaster, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    client = cast(MasterClient, master)
    settings = CubeApiSettings(domain="cube.test")
    authenticate = Authenticator(client, clock=clock, ttl=timedelta(seconds=1))
    app = FastAPI()
    install_error_handlers(app, code_of=public_code)
    app.include_router(sandboxes.router(client, authenticate, settings))
    app.include_router(templates.router(client, authenticate, settings))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api", headers={"X-API-Key": KEY}) as http:
        yield http


async def create(api: httpx.AsyncClient, path: str = "/v2/sandboxes", **body: Any) -> dict[str, Any]:
    response = await api.post(path, json={"templateID": "base", **body})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def test_create_v2_is_always_secured_and_names_our_domain(api: httpx.AsyncClient, master: FakeMaster) -> None:
    created = await create(api, timeout=30, metadata={"a": "b"}, envVars={"K": "V"})
    assert created["envdAccessToken"]
    assert created["domain"] == "cube.test"
    assert created["clientID"]
    assert created["envdVersion"] == "0.6.13"
    assert master.created[0].env_vars == {"K": "V"}


async def test_defaults_differ_by_generation(api: httpx.AsyncClient, master: FakeMaster) -> None:
    await create(api, "/sandboxes")
    await create(api, "/v2/sandboxes")
    assert [(new.timeout_s, new.secure) for new in master.created] == [(15, False), (300, True)]


async def test_v1_create_is_open_unless_secure_is_asked_for(api: httpx.AsyncClient) -> None:
    assert "envdAccessToken" not in await create(api, "/sandboxes")
    assert (await create(api, "/sandboxes", secure=True))["envdAccessToken"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X-API-Key": ""}, "API key is missing"),
        ({"X-API-Key": "nonsense"}, "Invalid API key format"),
        ({"X-API-Key": "e2b_" + "c" * 40}, "Invalid API key"),
    ],
)
async def test_bad_keys_are_401_with_the_error_body(
    api: httpx.AsyncClient, headers: dict[str, str], message: str
) -> None:
    response = await api.get("/v2/sandboxes", headers=headers)
    assert response.status_code == 401
    assert response.json()["code"] == 401
    assert message in response.json()["message"]


async def test_a_revoked_key_is_dead_after_the_cache_time(
    api: httpx.AsyncClient, master: FakeMaster, clock: FakeClock
) -> None:
    assert (await api.get("/v2/sandboxes")).status_code == 200
    master.keys.clear()
    assert (await api.get("/v2/sandboxes")).status_code == 200
    clock.advance(timedelta(seconds=1))
    assert (await api.get("/v2/sandboxes")).status_code == 401
    assert master.resolved == 2


async def test_another_teams_sandbox_does_not_exist(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    theirs = {"X-API-Key": OTHER_TEAMS_KEY}
    for method, path, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/timeout", {"timeout": 5}),
        ("POST", "/refreshes", {"duration": 5}),
        ("POST", "/connect", {"timeout": 5}),
        ("POST", "/pause", None),
        ("POST", "/resume", None),
        ("PUT", "/network", {}),
    ):
        response = await api.request(method, f"/sandboxes/{sandbox_id}{path}", json=body, headers=theirs)
        assert response.status_code == 404, (method, path)
        assert response.json()["code"] == 404
    assert (await api.get("/v2/sandboxes", headers=theirs)).json() == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"timeout": 0}, "Timeout must be greater than 0"),
        ({"timeout": 25 * 3600}, "Timeout cannot be greater than 24 hours"),
        ({"autoPauseMemory": False}, "autoPauseMemory=false only applies when autoPause is true."),
        (
            {"autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}},
            "autoPauseMemory=false (filesystem-only auto-pause) cannot be combined with autoResume",
        ),
        ({"network": {"httpsPorts": ["https"]}}, "network.httpsPorts.0"),
        ({"volumeMounts": [{"name": "v"}]}, "volumeMounts.0.path"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    api: httpx.AsyncClient, master: FakeMaster, body: dict[str, Any], message: str
) -> None:
    response = await api.post("/v2/sandboxes", json={"templateID": "base", **body})
    assert response.status_code == 400
    assert message in response.json()["message"]
    assert master.created == []


async def test_the_gateway_of_mcp_servers_is_the_clients_to_start(api: httpx.AsyncClient) -> None:
    assert "sandboxID" in await create(api, mcp={"time": {}})


async def test_a_private_sandbox_has_a_traffic_token_that_no_list_shows(api: httpx.AsyncClient) -> None:
    created = await create(api, network={"allowPublicTraffic": False, "maskRequestHost": "localhost:${PORT}"})
    token, path = created["trafficAccessToken"], f"/sandboxes/{created['sandboxID']}"
    connected = await api.post(f"/v2{path}/connect", json={"timeout": 10})
    assert connected.json()["trafficAccessToken"] == token
    detail = (await api.get(path)).json()
    assert detail["network"] == {"allowPublicTraffic": False, "maskRequestHost": "localhost:${PORT}"}
    assert token not in str(detail)
    assert token not in (await api.get("/v2/sandboxes")).text


async def test_ports_that_serve_tls_are_shown_and_outlive_new_rules(api: httpx.AsyncClient) -> None:
    path = f"/sandboxes/{(await create(api, network={'httpsPorts': [8443, 9000]}))['sandboxID']}"
    shown = {"allowPublicTraffic": True, "httpsPorts": [8443, 9000]}
    assert (await api.get(path)).json()["network"] == shown
    assert (await api.put(f"{path}/network", json={"denyOut": ["0.0.0.0/0"]})).status_code == 204
    assert (await api.get(path)).json()["network"] == {**shown, "denyOut": ["0.0.0.0/0"]}


async def test_a_public_sandbox_has_no_traffic_token(api: httpx.AsyncClient) -> None:
    assert "trafficAccessToken" not in await create(api)


async def test_privacy_needs_a_secured_agent(api: httpx.AsyncClient, master: FakeMaster) -> None:
    private = {"templateID": "base", "network": {"allowPublicTraffic": False}}
    refused = await api.post("/sandboxes", json=private)
    assert (refused.status_code, refused.json()["message"]) == (
        400,
        "You cannot create a sandbox without public access unless you enable secure envd access via 'secure' flag.",
    )
    assert master.created == []
    assert (await api.post("/sandboxes", json={**private, "secure": True})).status_code == 201


async def test_network_rules_are_replaced_whole(api: httpx.AsyncClient) -> None:
    path = f"/sandboxes/{(await create(api, network={'denyOut': ['0.0.0.0/0'], 'allowOut': ['1.1.1.1']}))['sandboxID']}"
    rules = {"allowPublicTraffic": True, "allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"]}
    assert (await api.get(path)).json()["network"] == rules
    assert (await api.put(f"{path}/network", json={"allow_internet_access": False})).status_code == 204
    detail = (await api.get(path)).json()
    assert (detail["network"], detail["allowInternetAccess"]) == ({"allowPublicTraffic": True}, False)
    assert (await api.put(f"{path}/network", json={})).status_code == 204
    assert (await api.get(path)).json()["allowInternetAccess"] is True


async def test_allowed_domains_are_shown_as_they_were_given(api: httpx.AsyncClient) -> None:
    rules = {"allowOut": ["*.Example.com", "1.1.1.1", "example.com"], "denyOut": ["0.0.0.0/0"]}
    path = f"/sandboxes/{(await create(api, network=rules))['sandboxID']}"
    assert (await api.get(path)).json()["network"] == {"allowPublicTraffic": True, **rules}
    assert (await api.put(f"{path}/network", json={**rules, "allowOut": ["*"]})).status_code == 204
    assert (await api.get(path)).json()["network"]["allowOut"] == ["*"]


async def test_a_key_that_is_not_for_secrets_cannot_send_them_anywhere(
    api: httpx.AsyncClient, master: FakeMaster
) -> None:
    path = f"/sandboxes/{(await create(api))['sandboxID']}/network"
    naming = {"rules": {"a.b": [{"transform": {"headers": {"X": "Bearer ${e2b.secrets.one}"}}}]}}
    plain = {"rules": {"a.b": [{"transform": {"headers": {"X": "Bearer one"}}}, {}]}}

    async def tried(key: str, network: dict[str, Any]) -> list[int]:
        headers = {"X-API-Key": key}
        created = await api.post("/v2/sandboxes", json={"templateID": "base", "network": network}, headers=headers)
        updated = await api.put(path, json=network, headers=headers)
        for answer in (created, updated):
            lacking = "this API key lacks the scope 'secrets', which header rules that name a secret need"
            assert (answer.status_code == 403) == (lacking in answer.text)
        return [created.status_code, updated.status_code]

    without, with_them = "e2b_" + "c" * 40, "e2b_" + "d" * 40
    master.add_key(without, "team-a", scopes=("sandboxes",))
    master.add_key(with_them, "team-a", scopes=("sandboxes", "secrets"))
    assert await tried(without, naming) == [403, 403]
    assert await tried(without, plain) == [201, 204]
    assert await tried(with_them, naming) == [201, 204]


async def test_unknown_fields_are_ignored(api: httpx.AsyncClient) -> None:
    await create(api, fieldOfALaterSdk=True)


async def test_a_full_team_is_429_and_may_try_again(api: httpx.AsyncClient, master: FakeMaster) -> None:
    master.fail_create = QuotaExceeded("the team has reached its maximum of 1 concurrent sandboxes")
    response = await api.post("/v2/sandboxes", json={"templateID": "base"})
    assert (response.status_code, response.json()["code"]) == (429, 429)
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["Should-Retry"] == "true"


async def test_unknown_template_is_404(api: httpx.AsyncClient) -> None:
    response = await api.post("/v2/sandboxes", json={"templateID": "nothing"})
    assert response.status_code == 404
    assert response.json() == {"code": 404, "message": "template 'nothing' not found"}


async def test_old_sdks_append_the_client_id_to_paths(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    assert (await api.get(f"/sandboxes/{sandbox_id}-6532622b")).status_code == 200
    assert (await api.get(f"/sandboxes/{sandbox_id}-6532622b-x")).status_code == 400


async def test_connect_never_shortens_and_timeout_may(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api, timeout=100))["sandboxID"]

    async def end_at() -> str:
        return str((await api.get(f"/sandboxes/{sandbox_id}")).json()["endAt"])

    before = await end_at()
    assert (await api.post(f"/v2/sandboxes/{sandbox_id}/connect", json={"timeout": 10})).status_code == 200
    assert await end_at() == before
    assert (await api.post(f"/sandboxes/{sandbox_id}/refreshes")).status_code == 204
    assert await end_at() == before
    assert (await api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 10})).status_code == 204
    assert await end_at() < before


async def test_list_pages_and_filters(api: httpx.AsyncClient) -> None:
    for n in range(3):
        await create(api, metadata={"n": str(n), "user name": "a&b"})
    first = await api.get("/v2/sandboxes", params={"limit": 2})
    assert len(first.json()) == 2
    assert first.headers["X-Total-Running"] == "3"
    rest = await api.get("/v2/sandboxes", params={"limit": 2, "nextToken": first.headers["X-Next-Token"]})
    assert len(rest.json()) == 1
    assert "X-Next-Token" not in rest.headers
    # Quoted twice, as the SDK's `urlencode` of quoted pairs; and once, as people do by hand.
    for metadata in ("n=1&user%2520name=a%2526b", "n=1&user%20name=a%26b"):
        found = await api.get("/v2/sandboxes", params={"metadata": metadata})
        assert [one["metadata"]["n"] for one in found.json()] == ["1"], metadata
    assert (await api.get("/v2/sandboxes", params={"template": "nothing"})).json() == []
    assert (await api.get("/v2/sandboxes", params={"state": "running,paused"})).status_code == 200
    assert (await api.get("/v2/sandboxes", params={"state": "asleep"})).status_code == 400
    assert (await api.get("/v2/sandboxes", params={"limit": 101})).status_code == 400


async def test_kill_is_204_and_then_404(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    assert (await api.delete(f"/sandboxes/{sandbox_id}")).status_code == 204
    gone = await api.delete(f"/sandboxes/{sandbox_id}")
    assert gone.status_code == 404
    assert "doesn't exist or you don't have access to it" in gone.json()["message"]


async def test_alias_lookup_takes_encoded_slashes(api: httpx.AsyncClient, master: FakeMaster) -> None:
    master.add_template("theirs", team_id="team-b", alias="team-b/tool")
    master.add_template("shared", team_id="team-b", alias="team-b/shared:v1", public=True)
    own = await api.get("/templates/aliases/base")
    assert own.json() == {"templateID": "basetemplate", "public": False}
    assert (await api.get("/templates/aliases/team-b%2Ftool")).status_code == 403
    assert (await api.get("/templates/aliases/team-b%2Fshared%3Av1")).json()["templateID"] == "shared"
    assert (await api.get("/templates/aliases/none")).status_code == 404


async def test_template_list_has_every_key_a_generated_client_pops(api: httpx.AsyncClient) -> None:
    (template,) = (await api.get("/templates")).json()
    assert set(template) >= {
        "templateID", "buildID", "cpuCount", "memoryMB", "diskSizeMB", "public", "aliases", "names", "createdAt",
        "updatedAt", "createdBy", "lastSpawnedAt", "spawnCount", "buildCount", "envdVersion", "buildStatus",
    }  # fmt: skip
    assert template["names"] == ["team-a/base"]
