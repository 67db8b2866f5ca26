"""What sandboxes use, from the node through CubeMaster to CubeAPI's wire, and to nobody else's team."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from appliance.contracts.node import MetricSample
from tests.integration.cubemaster.conftest import Appliance, eventually

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


def sample(second: int) -> MetricSample:
    return MetricSample(
        at=T0 + timedelta(seconds=second),
        cpu_count=2,
        cpu_used_pct=12.5,
        memory_used_bytes=1000 + second,
        memory_total_bytes=4000,
        memory_cache_bytes=500,
        disk_used_bytes=10,
        disk_total_bytes=100,
    )


async def made(appliance: Appliance, api: httpx.AsyncClient) -> str:
    created = await api.post("/v2/sandboxes", json={"templateID": "base"})
    assert created.status_code == 201, created.text
    sandbox_id = str(created.json()["sandboxID"])
    appliance.node.samples[sandbox_id] = [sample(second) for second in (0, 5, 10)]
    return sandbox_id


async def test_a_window_of_samples_has_every_key_clients_read(appliance: Appliance, api: httpx.AsyncClient) -> None:
    await appliance.template("base")
    sandbox_id = await made(appliance, api)
    path, start = f"/sandboxes/{sandbox_id}/metrics", int(T0.timestamp())

    everything = (await api.get(path)).json()
    some = (await api.get(path, params={"start": start + 5, "end": start + 10})).json()

    assert [one["timestampUnix"] - start for one in everything] == [0, 5, 10]
    assert some == everything[1:]
    assert datetime.fromisoformat(everything[0].pop("timestamp")) == T0
    assert everything[0] == {
        "timestampUnix": start,
        "cpuCount": 2,
        "cpuUsedPct": 12.5,
        "memUsed": 1000,
        "memTotal": 4000,
        "memCache": 500,
        "diskUsed": 10,
        "diskTotal": 100,
    }
    assert (await api.get(path, params={"end": start - 100})).json() == []
    assert (await api.get(path, params={"start": 10**18})).status_code == 400


async def test_the_newest_of_several_leaves_out_what_has_none(appliance: Appliance, api: httpx.AsyncClient) -> None:
    await appliance.template("base")
    first, second, quiet = [await made(appliance, api) for _ in range(3)]
    del appliance.node.samples[quiet]

    answer = await api.get("/sandboxes/metrics", params={"sandbox_ids": f"{first},{second},{quiet},unknown"})

    assert answer.status_code == 200
    found = answer.json()["sandboxes"]
    assert {one: newest["memUsed"] for one, newest in found.items()} == {first: 1010, second: 1010}
    many = ",".join(f"i{n:020}" for n in range(101))
    refused = await api.get("/sandboxes/metrics", params={"sandbox_ids": many})
    assert refused.json() == {"code": 400, "message": "Too many sandboxes requested, maximum is 100"}


async def test_another_teams_sandbox_has_no_metrics(
    appliance: Appliance, api: httpx.AsyncClient, others: dict[str, str]
) -> None:
    await appliance.template("base")
    sandbox_id = await made(appliance, api)

    assert (await api.get(f"/sandboxes/{sandbox_id}/metrics", headers=others)).status_code == 404
    bulk = await api.get("/sandboxes/metrics", params={"sandbox_ids": sandbox_id}, headers=others)
    assert bulk.json() == {"sandboxes": {}}
    await api.delete(f"/sandboxes/{sandbox_id}")
    assert (await api.get(f"/sandboxes/{sandbox_id}/metrics")).status_code == 404


@pytest.mark.parametrize("secure", [True, False])
async def test_a_node_that_lost_a_token_is_given_it_again(appliance: Appliance, secure: bool) -> None:
    team_id, _ = await appliance.team(), await appliance.template("base")
    one = await appliance.sandbox(team_id, secure=secure)
    node = appliance.node
    node.sandboxes[one.sandbox_id] = node.sandboxes[one.sandbox_id].model_copy(update={"sampled": False})

    await appliance.beat()

    async def given() -> bool:
        return one.sandbox_id in node.tokens

    await eventually(given)
    assert node.tokens == {one.sandbox_id: one.access_token}
