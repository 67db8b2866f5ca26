"""Pause, resume and connect on the wire: the statuses that SDKs tell outcomes apart by."""

from __future__ import annotations

import httpx
import pytest

from appliance.contracts.master import NewConnect, NewPause, NewResume
from appliance.contracts.node import OnTimeout
from appliance.domain.errors import GuestUnresponsive
from tests.support.fake_master import FakeMaster
from tests.unit.cubeapi.test_routes import api, clock, create, master

__all__ = ["api", "clock", "master"]


async def test_pause_is_204_and_409_where_it_is_paused(api: httpx.AsyncClient, master: FakeMaster) -> None:
    sandbox_id = (await create(api))["sandboxID"]

    # Older SDKs send no body at all.
    assert (await api.post(f"/sandboxes/{sandbox_id}/pause")).status_code == 204
    again = await api.post(f"/sandboxes/{sandbox_id}/pause", json={})
    assert (again.status_code, again.json()["code"]) == (409, 409)
    assert "error_code" not in again.json()
    assert (await api.post("/sandboxes/iunknown/pause")).status_code == 404
    assert master.pauses == [NewPause(team_id="team-a")]


async def test_pause_takes_memory_and_the_health_of_the_guest(api: httpx.AsyncClient, master: FakeMaster) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    master.fail_pause = GuestUnresponsive(sandbox_id)
    wedged = await api.post(f"/sandboxes/{sandbox_id}/pause", json={"requireHealthyGuest": True})
    assert wedged.status_code == 409
    assert wedged.json()["error_code"] == "sandbox_snapshot_guest_agent_unresponsive"
    master.fail_pause = None

    assert (await api.post(f"/sandboxes/{sandbox_id}/pause", json={"memory": False})).status_code == 204
    assert master.pauses == [NewPause(team_id="team-a", memory=False)]
    assert (await api.get(f"/sandboxes/{sandbox_id}")).json()["pauseMode"] == "filesystem"


async def test_a_paused_one_shows_when_it_was_paused(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api, autoPause=True, autoResume={"enabled": True}))["sandboxID"]
    running = (await api.get(f"/sandboxes/{sandbox_id}")).json()
    assert running["state"] == "running"
    assert running["lifecycle"] == {"autoResume": True, "onTimeout": "pause"}
    assert "pauseMode" not in running
    await api.post(f"/sandboxes/{sandbox_id}/pause")

    (listed,) = (await api.get("/v2/sandboxes", params={"state": "paused"})).json()
    shown = (await api.get(f"/sandboxes/{sandbox_id}")).json()

    assert (listed["state"], listed["endAt"]) == ("paused", "2026-01-01T00:00:00Z")
    assert (shown["state"], shown["pauseMode"], shown["endAt"]) == ("paused", "full", "2026-01-01T00:00:00Z")
    assert (await api.get("/sandboxes")).json() == []


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
async def test_connect_is_200_on_what_runs_and_201_where_it_resumed(api: httpx.AsyncClient, path: str) -> None:
    created = await create(api)
    connect = f"{path}/{created['sandboxID']}/connect"
    assert (await api.post(connect, json={"timeout": 30})).status_code == 200
    await api.post(f"/sandboxes/{created['sandboxID']}/pause")

    resumed = await api.post(connect, json={"timeout": 30})

    assert resumed.status_code == 201
    assert resumed.json()["sandboxID"] == created["sandboxID"]
    assert resumed.json()["envdAccessToken"] == created["envdAccessToken"]


async def test_connect_v1_needs_a_timeout_and_v2_has_one(api: httpx.AsyncClient) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    assert (await api.post(f"/sandboxes/{sandbox_id}/connect", json={})).status_code == 400
    assert (await api.post(f"/sandboxes/{sandbox_id}/connect", json={"timeout": 0})).status_code == 400
    assert (await api.post(f"/v2/sandboxes/{sandbox_id}/connect")).status_code == 200


async def test_resume_takes_no_body_and_is_409_on_what_runs(api: httpx.AsyncClient, master: FakeMaster) -> None:
    sandbox_id = (await create(api))["sandboxID"]
    running = await api.post(f"/sandboxes/{sandbox_id}/resume")
    assert (running.status_code, running.json()["message"]) == (409, f"Sandbox {sandbox_id} is already running")
    await api.post(f"/sandboxes/{sandbox_id}/pause")
    assert (await api.post(f"/sandboxes/{sandbox_id}/resume")).status_code == 201
    await api.post(f"/sandboxes/{sandbox_id}/pause")
    asked = {"timeout": 60, "autoPause": True, "memory": False}
    assert (await api.post(f"/sandboxes/{sandbox_id}/resume", json=asked)).status_code == 201
    await api.post(f"/sandboxes/{sandbox_id}/pause")
    await api.post(f"/v2/sandboxes/{sandbox_id}/connect", json={"memory": False})

    assert master.resumes == [
        NewResume(team_id="team-a", timeout_s=15),
        NewResume(team_id="team-a", timeout_s=60, auto_pause=True, memory=False),
        NewConnect(team_id="team-a", timeout_s=300, memory=False),
    ]


async def test_create_says_what_a_timeout_does(api: httpx.AsyncClient, master: FakeMaster) -> None:
    await create(api)
    await create(api, autoPause=True)
    await create(api, autoPause=True, autoPauseMemory=False)
    await create(api, autoPause=True, autoPauseMemory=True, autoResume={"enabled": True})
    assert [(one.on_timeout, one.auto_resume) for one in master.created] == [
        (OnTimeout.KILL, False),
        (OnTimeout.PAUSE, False),
        (OnTimeout.PAUSE_FILESYSTEM, False),
        (OnTimeout.PAUSE, True),
    ]
