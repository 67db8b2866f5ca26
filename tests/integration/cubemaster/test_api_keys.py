"""API keys as E2B's dashboard manages them: scopes, expiry, revocation, and who may grant what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from appliance.contracts.master import NewKey
from appliance.domain.ids import API_KEY
from tests.integration.cubemaster.conftest import ADMIN_TOKEN, Appliance


async def made(api: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    response = await api.post("/api-keys", json={"name": "made", **body}, headers=headers)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def test_a_key_is_shown_once_renamed_and_revoked(api: httpx.AsyncClient) -> None:
    created = await made(api, name="laptop")
    key = created["key"]
    assert API_KEY.fullmatch(key)
    mask = {"prefix": "e2b_", "valueLength": 40, "maskedValuePrefix": key[4:6], "maskedValueSuffix": key[-4:]}
    assert created["mask"] == mask
    assert (await api.get("/v2/sandboxes", headers={"X-API-Key": key})).status_code == 200
    assert (await api.get("/v2/sandboxes", headers={"X-API-Key": "", "Authorization": f"Bearer {key}"})).is_success

    renamed = await api.patch(f"/api-keys/{created['id']}", json={"name": "desk"})
    assert (renamed.status_code, renamed.content) == (200, b"")
    listed = await api.get("/api-keys")
    assert [one["name"] for one in listed.json()] == ["test", "desk"]
    assert key not in listed.text

    assert (await api.delete(f"/api-keys/{created['id']}")).status_code == 204
    assert (await api.get("/v2/sandboxes", headers={"X-API-Key": key})).status_code == 401
    assert (await api.delete(f"/api-keys/{created['id']}")).status_code == 404
    assert (await api.delete("/api-keys/nonsense")).status_code == 400


async def test_a_key_is_good_for_its_scopes_alone(api: httpx.AsyncClient) -> None:
    narrow = {"X-API-Key": (await made(api, scopes=["templates"]))["key"]}
    assert (await api.get("/templates", headers=narrow)).status_code == 200
    assert (await api.get("/teams", headers=narrow)).status_code == 200
    for path in ("/v2/sandboxes", "/api-keys"):
        refused = await api.get(path, headers=narrow)
        assert (refused.status_code, refused.json()["code"]) == (403, 403), path
        assert "lacks the scope" in refused.json()["message"]
    assert (await api.post("/api-keys", json={"name": "x", "scopes": ["everything"]})).status_code == 400
    assert (await api.post("/api-keys", json={"name": "x", "scopes": []})).status_code == 400


async def test_a_key_grants_no_more_than_it_has(api: httpx.AsyncClient) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    granter = {"X-API-Key": (await made(api, scopes=["keys", "templates"], expiresAt=until))["key"]}

    beyond = await api.post("/api-keys", json={"name": "x", "scopes": ["sandboxes"]}, headers=granter)
    later = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    longer = await api.post("/api-keys", json={"name": "x", "expiresAt": later}, headers=granter)
    inherited = await made(api, granter)

    assert (beyond.status_code, longer.status_code) == (403, 403)
    assert inherited["scopes"] == ["keys", "templates"]
    assert datetime.fromisoformat(inherited["expiresAt"]) == datetime.fromisoformat(until)


async def test_an_expired_key_is_dead(appliance: Appliance, api: httpx.AsyncClient) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    created = await appliance.master.create_key(NewKey(name="short", expires_at=soon))
    headers = {"X-API-Key": created.key}
    assert (await api.get("/templates", headers=headers)).status_code == 200
    appliance.db.execute(
        f"UPDATE api_keys SET expires_at = UTC_TIMESTAMP(6) WHERE key_id = '{created.key_id}'",
        database="cube_master",
    )
    assert (await api.get("/templates", headers=headers)).status_code == 401
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert (await api.post("/api-keys", json={"name": "x", "expiresAt": past})).status_code == 400


async def test_the_operator_acts_for_a_team_by_its_token(appliance: Appliance, api: httpx.AsyncClient) -> None:
    team_id = await appliance.team("blue")
    operator = {"X-API-Key": "", "X-Admin-Token": ADMIN_TOKEN}

    created = await made(api, {**operator, "X-Team-ID": team_id})

    (own,) = (await api.get("/teams", headers={"X-API-Key": created["key"]})).json()
    assert own == {"teamID": team_id, "name": "blue", "apiKey": created["key"], "isDefault": True}
    (shown,) = (await api.get("/teams", headers={**operator, "X-Team-ID": team_id})).json()
    assert shown["apiKey"] == ""
    assert (await api.get("/api-keys", headers=operator)).status_code == 400
    nobody = {**operator, "X-Team-ID": "00000000-0000-4000-8000-000000000000"}
    assert (await api.get("/api-keys", headers=nobody)).status_code == 404
    wrong = {"X-Admin-Token": "b" * 64, "X-Team-ID": team_id}
    # A valid key beside it does not help.
    assert (await api.get("/api-keys", headers=wrong)).status_code == 401
    assert (await api.get("/api-keys", headers={"X-Team-ID": team_id})).status_code == 403


async def test_access_tokens_are_gone(api: httpx.AsyncClient) -> None:
    gone = await api.post("/access-tokens", json={"name": "x"})
    assert (gone.status_code, gone.json()["code"]) == (410, 410)
    assert "API key" in gone.json()["message"]
    assert (await api.delete("/access-tokens/00000000-0000-4000-8000-000000000000")).status_code == 404
