"""Snapshots and forks on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from appliance.contracts.master import NewFork, NewRollback
from tests.support.fake_master import FakeMaster
from tests.unit.cubeapi.test_routes import OTHER_TEAMS_KEY, api, clock, create, master

__all__ = ["api", "clock", "master"]


async def test_a_snapshot_is_201_with_its_id_and_names(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    unnamed = await api.post(f"/sandboxes/{sandbox_id}/snapshots")
    named = await api.post(f"/sandboxes/{sandbox_id}/snapshots", json={"name": "warm", "memory": False})
    assert (unnamed.status_code, named.status_code) == (201, 201)
    assert unnamed.json() == {"snapshotID": "snapshot0:default", "names": []}
    assert named.json() == {"snapshotID": "team-a/warm:default", "names": ["team-a/warm"]}
    assert (await api.post("/sandboxes/iunknown/snapshots", json={})).status_code == 404


async def test_snapshots_are_listed_in_pages_and_filtered(api: httpx.AsyncClient) -> None:
    first, second = (await create(api))["sandboxID"], (await create(api))["sandboxID"]
    for sandbox_id, body in ((first, {"name": "warm"}), (first, {}), (second, {})):
        await api.post(f"/sandboxes/{sandbox_id}/snapshots", json=body)

    page = await api.get("/snapshots", params={"limit": 2})
    rest = await api.get("/snapshots", params={"limit": 2, "nextToken": page.headers["X-Next-Token"]})
    assert (len(page.json()), len(rest.json())) == (2, 1)
    assert "X-Next-Token" not in rest.headers
    assert len((await api.get("/snapshots", params={"sandboxID": first})).json()) == 2
    assert [one["names"] for one in (await api.get("/snapshots", params={"name": "warm"})).json()] == [["team-a/warm"]]
    assert (await api.get("/snapshots", params={"name": "unknown"})).json() == []
    assert (await api.get("/snapshots", headers={"X-API-Key": OTHER_TEAMS_KEY})).json() == []


async def test_a_fork_is_201_even_when_some_copies_fail(api: httpx.AsyncClient, master: FakeMaster) -> None:
    source = await create(api)
    forked = await api.post(f"/sandboxes/{source['sandboxID']}/fork", json={"count": 2, "timeout": 60})
    assert forked.status_code == 201
    made, failed = forked.json()
    assert set(made) == {"sandbox"}
    assert made["sandbox"]["sandboxID"] != source["sandboxID"]
    assert made["sandbox"]["domain"] == "cube.test"
    assert failed == {"error": {"code": 429, "message": "full"}}
    assert len((await api.post(f"/sandboxes/{source['sandboxID']}/fork")).json()) == 1
    assert master.forks == [
        NewFork(team_id="team-a", timeout_s=60, count=2),
        NewFork(team_id="team-a", timeout_s=15, count=1),
    ]
    assert (await api.post("/sandboxes/iunknown/fork", json={})).status_code == 404


async def test_a_rollback_is_200_with_the_sandbox(api: httpx.AsyncClient, master: FakeMaster) -> None:
    made = await create(api)
    path = f"/sandboxes/{made['sandboxID']}/rollback"
    taken = (await api.post(f"/sandboxes/{made['sandboxID']}/snapshots")).json()["snapshotID"]

    back = await api.post(path, json={"snapshotID": taken})

    assert (back.status_code, back.json()) == (200, made)
    assert master.rollbacks == [NewRollback(team_id="team-a", snapshot=taken)]
    unknown = await api.post(path, json={"snapshotID": "unknown"})
    assert (unknown.status_code, unknown.json()["message"]) == (404, "snapshot 'unknown' not found")
    assert (await api.post("/sandboxes/iunknown/rollback", json={"snapshotID": taken})).status_code == 404
    assert (await api.post(path, json={"snapshotID": taken}, headers={"X-API-Key": OTHER_TEAMS_KEY})).status_code == 404
    for body in ({}, {"snapshotID": ""}, {"snapshotID": 1}):
        assert (await api.post(path, json=body)).status_code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"count": 0}, "Count must be at least 1"),
        ({"count": 101}, "Count cannot be greater than 100"),
        ({"timeout": 0}, "Timeout must be greater than 0"),
    ],
)
async def test_counts_have_bounds(
    api: httpx.AsyncClient, master: FakeMaster, body: dict[str, Any], message: str
) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    refused = await api.post(f"/sandboxes/{sandbox_id}/fork", json=body)
    assert (refused.status_code, refused.json()["message"]) == (400, message)
    assert master.forks == []
