"""Secrets through CubeAPI: stored sealed, in versions, never shown."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from appliance.cubemaster.services.sealing import Sealer, secret_place
from tests.integration.cubemaster.conftest import DATABASE, Appliance

JSON = {"Content-Type": "application/json"}
VALUE = "hunter2-" + "x" * 20


async def made(api: httpx.AsyncClient, name: str, **body: Any) -> dict[str, Any]:
    response = await api.post("/secrets", json={"name": name, "value": VALUE, **body})
    assert response.status_code == 201, response.text
    assert VALUE not in response.text
    return dict(response.json())


async def test_a_secret_has_versions_and_is_found_by_id_or_name(api: httpx.AsyncClient) -> None:
    secret = await made(api, "API-Token", metadata={"for": "billing"})
    assert (secret["name"], secret["currentVersion"], secret["metadata"]) == ("api-token", 1, {"for": "billing"})
    assert secret["secretID"].startswith("sec_")

    updated = await api.post("/secrets/API-token", json={"value": "another"})
    assert (updated.status_code, updated.json()["currentVersion"]) == (200, 2)
    assert updated.json()["metadata"] == {"for": "billing"}
    assert updated.json()["updatedAt"] > secret["updatedAt"]
    assert (await api.get(f"/secrets/{secret['secretID']}")).json() == updated.json()
    assert (await api.post("/secrets", json={"name": "api-TOKEN", "value": "x"})).status_code == 409

    assert (await api.delete(f"/secrets/{secret['secretID']}")).status_code == 204
    assert (await api.delete("/secrets/api-token")).status_code == 404
    assert (await api.get("/secrets/api-token")).status_code == 404
    await made(api, "api-token")


async def test_the_database_holds_no_value_and_the_newest_one_opens(
    appliance: Appliance, api: httpx.AsyncClient
) -> None:
    await made(api, "one")
    for number in range(12):
        await api.post("/secrets/one", json={"value": f"{VALUE}-{number}"})

    rows = appliance.db.execute(
        "SELECT secret_id, version, sealed FROM secret_versions ORDER BY version", database=DATABASE
    )
    assert [row[1] for row in rows] == list(range(4, 14))
    assert VALUE.encode() not in b"".join(row[2] for row in rows)
    secret_id, version, sealed = rows[-1]
    assert Sealer("6" * 64).open(sealed, place=secret_place(secret_id, version)) == f"{VALUE}-11"


async def test_pages_of_secrets_meet(api: httpx.AsyncClient) -> None:
    names = [(await made(api, f"secret-{number}"))["name"] for number in range(3)]
    first = await api.get("/secrets", params={"limit": 2})
    rest = await api.get("/secrets", params={"limit": 2, "nextToken": first.headers["X-Next-Token"]})
    assert [one["name"] for one in first.json() + rest.json()] == names[::-1]
    assert "X-Next-Token" not in rest.headers


async def test_another_team_has_its_own(api: httpx.AsyncClient, others: dict[str, str]) -> None:
    secret = await made(api, "one")
    for selector in ("one", secret["secretID"]):
        assert (await api.get(f"/secrets/{selector}", headers=others)).status_code == 404
        assert (await api.post(f"/secrets/{selector}", json={"value": "x"}, headers=others)).status_code == 404
        assert (await api.delete(f"/secrets/{selector}", headers=others)).status_code == 404
    assert (await api.get("/secrets", headers=others)).json() == []
    assert (await api.post("/secrets", json={"name": "one", "value": "x"}, headers=others)).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a b"},
        {"name": "sec_mine"},
        {"name": "a" * 129},
        {"value": ""},
        {"value": "\ud800"},
        {"value": "x" * 70_000},
        {"metadata": {str(number): "" for number in range(33)}},
        {"metadata": {"k": "x" * 1025}},
        {"metadata": {"k" * 129: ""}},
        {"metadata": {"k": 1}},
    ],
)
async def test_what_cannot_be_stored_is_refused_without_repeating_it(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    response = await api.post("/secrets", content=dumped({"name": "one", "value": VALUE, **body}), headers=JSON)
    assert response.status_code == 400
    assert VALUE not in response.text


def dumped(body: dict[str, Any]) -> bytes:
    # Escapes halves of surrogate pairs, as no client library would send them.
    return json.dumps(body).encode()
