"""The operator's routes, in E2B's shapes."""

from __future__ import annotations

import httpx
import pytest

from appliance.contracts.node import HostDisk, HostReport
from appliance.contracts.templates import BuildStatus, NewTemplate
from appliance.domain import errors
from tests.integration.cubemaster.conftest import ADMIN_TOKEN, Appliance, eventually

OPERATOR = {"X-API-Key": "", "X-Admin-Token": ADMIN_TOKEN}


@pytest.fixture
def admin(api: httpx.AsyncClient) -> httpx.AsyncClient:
    api.headers.update(OPERATOR)
    return api


async def test_a_node_is_shown_drained_and_used_again(appliance: Appliance, admin: httpx.AsyncClient) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await appliance.sandbox(team_id)
    appliance.node.fail_create = errors.GuestFailure("it did not start")
    with pytest.raises(errors.GuestFailure):
        await appliance.sandbox(team_id)
    appliance.node.fail_create = None
    host = HostReport(
        cpu_count=2, cpu_used_pct=12.4, memory_total_bytes=4, memory_used_bytes=3, huge_pages_total=0,
        huge_pages_used=0, huge_pages_reserved=0, huge_page_size_bytes=2048, cpu_family="6", cpu_model="1",
        cpu_model_name="CPU", cpu_architecture="x86_64",
        disk=HostDisk(mount_point="/", device="/dev/a", filesystem_type="xfs", used_bytes=1, total_bytes=2),
    )  # fmt: skip
    await appliance.master.heartbeat(appliance.node.status().model_copy(update={"host": host}))

    (node,) = (await admin.get("/nodes")).json()
    assert (node["id"], node["status"], node["sandboxCount"]) == ("cube-1", "ready", 1)
    assert (node["createSuccesses"], node["createFails"], node["sandboxStartingCount"]) == (1, 1, 0)
    assert node["metrics"]["allocatedMemoryBytes"] == 512 << 20
    assert (node["metrics"]["cpuPercent"], node["metrics"]["disks"][0]["filesystemType"]) == (12, "xfs")

    assert (await admin.post("/nodes/cube-1", json={"status": "draining"})).status_code == 204
    await appliance.beat()
    drained = (await admin.get("/nodes/cube-1")).json()
    assert drained["status"] == "draining"
    assert drained["statusChangedAt"] > node["statusChangedAt"]
    with pytest.raises(errors.NoCapacity):
        await appliance.sandbox(team_id)
    assert (await admin.post("/nodes/cube-1", json={"status": "ready"})).status_code == 204
    await appliance.sandbox(team_id)


async def test_what_a_node_cannot_be_told_is_refused(appliance: Appliance, admin: httpx.AsyncClient) -> None:
    assert (await admin.post("/nodes/cube-1", json={"status": "standby"})).status_code == 400
    assert (await admin.post("/nodes/none", json={"status": "ready"})).status_code == 404
    assert (await admin.get("/nodes/none")).status_code == 404
    other = {"clusterID": "00000000-0000-4000-8000-000000000001"}
    assert (await admin.get("/nodes", params=other)).json() == []
    assert (await admin.get("/nodes/cube-1", params=other)).status_code == 404
    assert (await admin.get("/nodes", params={"clusterID": "x"})).status_code == 400


async def test_all_sandboxes_of_a_team_are_killed_and_counted(appliance: Appliance, admin: httpx.AsyncClient) -> None:
    mine, theirs = await appliance.team("mine"), await appliance.team("theirs")
    await appliance.template("base", team="mine", public=True)
    for team_id in (mine, mine, theirs):
        await appliance.sandbox(team_id)
    assert (await admin.get("/admin/sandboxes/running-counts")).json() == {mine: 2, theirs: 1}

    killed = await admin.post(f"/admin/teams/{mine}/sandboxes/kill")

    assert (killed.status_code, killed.json()) == (200, {"killedCount": 2, "failedCount": 0})
    assert (await admin.get("/admin/sandboxes/running-counts")).json() == {theirs: 1}
    assert len(appliance.node.sandboxes) == 1
    assert (await admin.post("/admin/teams/00000000-0000-4000-8000-000000000000/sandboxes/kill")).status_code == 404
    assert (await admin.post("/admin/teams/x/sandboxes/kill")).status_code == 400


async def test_all_builds_of_a_team_are_cancelled_and_freed(appliance: Appliance, admin: httpx.AsyncClient) -> None:
    team_id = await appliance.team("mine")
    build = await appliance.master.create_template(NewTemplate(team="mine", image="oci:/images/base", alias="base"))

    async def on_node() -> bool:
        return build.build_id in appliance.node.builds

    await eventually(on_node)

    cancelled = await admin.post(f"/admin/teams/{team_id}/builds/cancel")

    assert cancelled.json() == {"cancelledCount": 1, "failedCount": 0}
    after = await appliance.master.get_build(build.build_id)
    assert (after.status, after.reason) == (BuildStatus.ERROR, "cancelled by the operator")

    async def freed() -> bool:
        return build.build_id not in appliance.node.builds

    await eventually(freed, within_s=15)


async def test_keys_of_a_team_are_made_and_revoked(appliance: Appliance, admin: httpx.AsyncClient) -> None:
    team_id, other = await appliance.team("mine"), await appliance.team("other")
    made = await admin.post(f"/admin/teams/{team_id}/api-keys", json={"name": "service", "scopes": ["sandboxes"]})
    assert made.status_code == 201
    caller = {"X-API-Key": made.json()["key"]}
    del admin.headers["X-Admin-Token"]
    assert (await admin.get("/v2/sandboxes", headers=caller)).status_code == 200
    key_id = made.json()["id"]
    assert (await admin.delete(f"/admin/teams/{other}/api-keys/{key_id}", headers=OPERATOR)).status_code == 404
    assert (await admin.delete(f"/admin/teams/{team_id}/api-keys/{key_id}", headers=OPERATOR)).status_code == 204
    assert (await admin.get("/v2/sandboxes", headers=caller)).status_code == 401


async def test_nobody_passes_without_the_operators_token(api: httpx.AsyncClient) -> None:
    for path in ("/nodes", "/admin/sandboxes/running-counts"):
        assert (await api.get(path)).status_code == 401
        assert (await api.get(path, headers={"X-Admin-Token": ""})).status_code == 401
        assert (await api.get(path, headers={"X-Admin-Token": ADMIN_TOKEN[:-1]})).status_code == 401
