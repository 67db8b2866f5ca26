"""Teams: limits of their own, held exactly, and metrics that come out of what happened."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from appliance.contracts.master import SandboxView
from appliance.contracts.teams import TeamLimits
from appliance.contracts.templates import BuildView, NewTemplate
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"sandboxes": 3}, "3 concurrent sandboxes"),
        ({"vcpus": 3}, "3 vCPUs"),
        ({"memory_mib": 3 * 512}, "1536 MiB of memory"),
        ({"disk_mib": 3 * 1500}, "4500 MiB of disk"),
    ],
)
async def test_of_many_creates_at_once_exactly_as_many_as_fit_a_limit_succeed(
    appliance: Appliance, limits: dict[str, int], words: str
) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await appliance.master.teams.set_limits(team_id, TeamLimits.model_validate(limits))

    outcomes = await asyncio.gather(*(appliance.sandbox(team_id) for _ in range(10)), return_exceptions=True)

    made = [one for one in outcomes if isinstance(one, SandboxView)]
    refused = [one for one in outcomes if isinstance(one, errors.QuotaExceeded)]
    assert (len(made), len(refused)) == (3, 7), outcomes
    assert words in refused[0].message
    await appliance.master.kill_sandbox(made[0].sandbox_id)
    await appliance.sandbox(team_id)


async def test_builds_at_one_time_are_limited_apart_from_sandboxes(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await appliance.sandbox(team_id)
    # More sandboxes than allowed by now: that is nothing to a build.
    await appliance.master.teams.set_limits("default", TeamLimits(sandboxes=1, builds=2))
    new = NewTemplate(image="oci:/images/base")

    outcomes = await asyncio.gather(*(appliance.master.create_template(new) for _ in range(5)), return_exceptions=True)

    assert sum(isinstance(one, BuildView) for one in outcomes) == 2
    assert sum(isinstance(one, errors.QuotaExceeded) and "2 template builds" in one.message for one in outcomes) == 3
    with pytest.raises(errors.QuotaExceeded, match="1 concurrent sandboxes"):
        await appliance.sandbox(team_id)


async def test_a_team_shows_its_limits_and_what_it_has(appliance: Appliance) -> None:
    made = await appliance.master.teams.create("blue")
    await appliance.template("base", team="blue")
    await appliance.sandbox(made.team_id)
    shown = await appliance.master.teams.set_limits("blue", TeamLimits(vcpus=8, sandboxes=0))

    assert shown.own_limits == TeamLimits(vcpus=8, sandboxes=0)
    assert (shown.limits.sandboxes, shown.limits.vcpus, shown.limits.builds) == (None, 8, 20)
    usage = shown.usage
    assert (usage.sandboxes, usage.vcpus, usage.memory_mib, usage.disk_mib, usage.builds) == (1, 1, 512, 1500, 0)
    assert [one.slug for one in await appliance.master.teams.all()] == ["blue"]
    with pytest.raises(errors.Conflict):
        await appliance.master.teams.create("blue")
    with pytest.raises(errors.NotFound):
        await appliance.master.teams.get("green")
    with pytest.raises(errors.InvalidRequest):
        await appliance.master.teams.create("Not a name")


def event(appliance: Appliance, team_id: str, sandbox_id: str, kind: str, at: datetime) -> None:
    appliance.db.execute(
        "INSERT INTO events (at, kind, team_id, sandbox_id, detail) VALUES "
        f"('{at:%Y-%m-%d %H:%M:%S.%f}', '{kind}', '{team_id}', '{sandbox_id}', '{{}}')",
        database="cube_master",
    )


async def test_metrics_follow_starts_pauses_resumes_and_ends(appliance: Appliance, api: httpx.AsyncClient) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    now = datetime.now(UTC)
    begin = (now - timedelta(minutes=10)).replace(microsecond=0)
    made = [await appliance.sandbox(team_id) for _ in range(3)]
    appliance.db.execute("DELETE FROM events", database="cube_master")
    early, paused, failed = (one.sandbox_id for one in made)
    # Ran before the window, and ends within it.
    event(appliance, team_id, early, "sandbox_started", begin - timedelta(hours=1))
    event(appliance, team_id, early, "sandbox_ended", begin + timedelta(seconds=100))
    # Its end comes while it is paused: that takes nothing off.
    event(appliance, team_id, paused, "sandbox_started", begin + timedelta(seconds=20))
    event(appliance, team_id, paused, "sandbox_paused", begin + timedelta(seconds=40))
    event(appliance, team_id, paused, "sandbox_resumed", begin + timedelta(seconds=200))
    event(appliance, team_id, paused, "sandbox_paused", begin + timedelta(seconds=230))
    event(appliance, team_id, paused, "sandbox_ended", begin + timedelta(seconds=260))
    # Never ran.
    event(appliance, team_id, failed, "sandbox_ended", begin + timedelta(seconds=50))
    span = {"start": int(begin.timestamp()), "end": int(begin.timestamp()) + 300}

    response = await api.get(f"/teams/{team_id}/metrics", params=span)

    assert response.status_code == 200, response.text
    metrics = response.json()
    assert [one["timestampUnix"] - span["start"] for one in metrics] == list(range(0, 300, 15))
    assert [one["concurrentSandboxes"] for one in metrics] == [1, 2, 2, *[1] * 4, *[0] * 6, 1, 1, 1, *[0] * 4]
    assert [round(one["sandboxStartRate"] * 15) for one in metrics] == [0, 1, *[0] * 11, 1, *[0] * 6]

    most = await api.get(f"/teams/{team_id}/metrics/max", params={**span, "metric": "concurrent_sandboxes"})
    assert (most.json()["value"], most.json()["timestampUnix"] - span["start"]) == (2, 20)
    rate = await api.get(f"/teams/{team_id}/metrics/max", params={**span, "metric": "sandbox_start_rate"})
    assert rate.json()["value"] == pytest.approx(1 / 15)


async def test_metrics_of_what_really_ran(appliance: Appliance, api: httpx.AsyncClient) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = [await appliance.sandbox(team_id) for _ in range(2)]
    for one in made:
        await appliance.master.kill_sandbox(one.sandbox_id)
    params = {"metric": "concurrent_sandboxes"}
    highest = (await api.get(f"/teams/{team_id}/metrics/max", params=params)).json()
    assert highest["value"] == 2
    metrics = (await api.get(f"/teams/{team_id}/metrics")).json()
    assert len(metrics) <= 500
    assert metrics[-1]["concurrentSandboxes"] == 2


async def test_metrics_are_the_teams_own_and_their_time_is_bounded(
    appliance: Appliance, api: httpx.AsyncClient, others: dict[str, str]
) -> None:
    team_id = await appliance.team()
    theirs = await api.get(f"/teams/{team_id}/metrics", headers=others)
    assert theirs.status_code == 403
    assert f"not authorized to access this team's ({team_id}) metrics" in theirs.json()["message"]
    for params in ({"start": 10, "end": 5}, {"start": 1, "end": 10**9}, {"start": -1}, {"end": 10**15}):
        assert (await api.get(f"/teams/{team_id}/metrics", params=params)).status_code == 400, params
    assert (await api.get(f"/teams/{team_id}/metrics/max", params={"metric": "x"})).status_code == 400
