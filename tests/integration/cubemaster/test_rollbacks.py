"""Rollback: what the row, the node's reservations, the routes and the events say of it, however it goes."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from appliance.contracts.master import (
    NewConnect,
    NewEgress,
    NewPause,
    NewRollback,
    NewSnapshot,
    NewTimeout,
    SandboxState,
    SandboxView,
    SnapshotView,
)
from appliance.contracts.node import EndReason, Rollback
from appliance.cubemaster.settings import CubeMasterSettings, QuotaSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually


async def _snapshotted(appliance: Appliance, **fields: object) -> tuple[SandboxView, SnapshotView]:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id, **fields)
    return made, await appliance.master.take_snapshot(made.sandbox_id, NewSnapshot())


async def _roll_back(appliance: Appliance, made: SandboxView, snapshot: str) -> SandboxView:
    return await appliance.master.roll_back_sandbox(
        made.sandbox_id, NewRollback(team_id=made.team_id, snapshot=snapshot)
    )


async def _state(appliance: Appliance, made: SandboxView) -> SandboxState:
    return (await appliance.master.get_sandbox(made.sandbox_id, ended=True)).state


def _routes(appliance: Appliance) -> list[str]:
    with appliance.redis.client() as redis:
        return [str(key) for key in redis.keys("cube:route:*")]


def _events(appliance: Appliance) -> list[str]:
    rows = appliance.db.execute("SELECT kind FROM events ORDER BY event_id", database="cube_master")
    return [str(row[0]) for row in rows]


async def test_it_is_the_same_sandbox_at_another_address(appliance: Appliance) -> None:
    made, taken = await _snapshotted(appliance, allow_internet=False, metadata={"who": "agent"})
    address = (await appliance.master.get_route(made.sandbox_id)).address

    back = await _roll_back(appliance, made, taken.snapshot_id)

    assert back == made
    (asked,) = appliance.node.rollbacks[made.sandbox_id]
    assert (asked.build_id, asked.access_token) == (taken.build_id, made.access_token)
    assert not asked.network.allow_internet
    route = await appliance.master.get_route(made.sandbox_id)
    assert (route.state, route.address) == ("running", appliance.node.sandboxes[made.sandbox_id].address)
    assert route.address != address
    assert _routes(appliance) == [f"cube:route:{made.sandbox_id}"]
    assert await appliance.reserved() == (1, 512)
    assert _events(appliance) == ["sandbox_started", "sandbox_rolled_back"]

    assert await _roll_back(appliance, made, taken.snapshot_id) == made
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    assert (await appliance.master.connect_sandbox(made.sandbox_id, NewConnect(timeout_s=60))).resumed
    # Nothing of it is the snapshot's any more.
    await appliance.master.delete_template(taken.snapshot_id, team_id=made.team_id)
    await appliance.master.kill_sandbox(made.sandbox_id)
    assert await appliance.reserved() == (0, 0)


async def test_a_name_means_its_newest_snapshot(appliance: Appliance) -> None:
    made, _ = await _snapshotted(appliance)
    await appliance.master.take_snapshot(made.sandbox_id, NewSnapshot(name="warm"))
    newest = await appliance.master.take_snapshot(made.sandbox_id, NewSnapshot(name="warm"))
    for name in ("warm", "default/warm:default"):
        await _roll_back(appliance, made, name)
        assert appliance.node.rollbacks[made.sandbox_id][-1].build_id == newest.build_id


async def test_only_to_a_snapshot_of_its_own(appliance: Appliance, api: httpx.AsyncClient) -> None:
    made, taken = await _snapshotted(appliance)
    other = await appliance.sandbox(made.team_id)
    stranger = await appliance.team("other")
    for reference in ("unknown", "base", made.template_id, "other/warm"):
        with pytest.raises(errors.SnapshotNotFound):
            await _roll_back(appliance, made, reference)
    with pytest.raises(errors.InvalidRequest, match=f"was taken of sandbox '{made.sandbox_id}'"):
        await _roll_back(appliance, other, taken.snapshot_id)
    with pytest.raises(errors.InvalidRequest, match="invalid template name"):
        await _roll_back(appliance, made, "a b")
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.roll_back_sandbox(
            made.sandbox_id, NewRollback(team_id=stranger, snapshot=taken.snapshot_id)
        )
    await appliance.master.delete_template(taken.snapshot_id, team_id=made.team_id)
    refused = await api.post(f"/sandboxes/{made.sandbox_id}/rollback", json={"snapshotID": taken.snapshot_id})
    assert (refused.status_code, refused.json()["message"]) == (404, f"snapshot '{taken.snapshot_id}' not found")
    assert appliance.node.rollbacks == {}
    assert await _state(appliance, made) is SandboxState.RUNNING
    assert await appliance.reserved() == (2, 1024)


async def test_only_while_it_runs(appliance: Appliance, api: httpx.AsyncClient) -> None:
    made, taken = await _snapshotted(appliance)
    path, body = f"/sandboxes/{made.sandbox_id}/rollback", {"snapshotID": taken.snapshot_id}
    answered = await api.post(path, json=body)
    assert (answered.status_code, answered.json()["sandboxID"]) == (200, made.sandbox_id)
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    refused = await api.post(path, json=body)
    assert refused.status_code == 409
    assert refused.json()["message"] == f"Sandbox '{made.sandbox_id}' cannot be rolled back while in 'paused' state"
    appliance.db.execute("UPDATE sandboxes SET state = 'pausing'", database="cube_master")
    refused = await api.post(path, json=body)
    assert (refused.status_code, refused.json()["message"]) == (409, f'Sandbox "{made.sandbox_id}" is being paused')


@pytest.mark.parametrize(
    "failure", [errors.DiskFull("no room"), errors.VmmFailure("made to fail"), errors.GuestFailure("silent")]
)
async def test_one_that_fails_leaves_it_running(appliance: Appliance, failure: errors.CubeError) -> None:
    made, taken = await _snapshotted(appliance)
    route = await appliance.master.get_route(made.sandbox_id)
    appliance.node.fail_rollback = failure
    with pytest.raises(type(failure)):
        await _roll_back(appliance, made, taken.snapshot_id)
    assert await appliance.master.get_sandbox(made.sandbox_id) == made
    assert await appliance.master.get_route(made.sandbox_id) == route
    assert _routes(appliance) == [f"cube:route:{made.sandbox_id}"]
    assert await appliance.reserved() == (1, 512)
    assert _events(appliance) == ["sandbox_started"]
    appliance.node.fail_rollback = None
    await _roll_back(appliance, made, taken.snapshot_id)


async def test_of_a_snapshot_that_its_node_has_lost_it_says_so(appliance: Appliance) -> None:
    made, taken = await _snapshotted(appliance)
    del appliance.node.finished[taken.build_id]
    with pytest.raises(errors.SnapshotNotFound):
        await _roll_back(appliance, made, taken.snapshot_id)
    assert await _state(appliance, made) is SandboxState.RUNNING
    assert await appliance.reserved() == (1, 512)


async def test_for_a_moment_it_takes_the_room_of_two(appliance: Appliance) -> None:
    made, taken = await _snapshotted(appliance)
    appliance.node.stall = asyncio.Event()
    rollback = asyncio.create_task(_roll_back(appliance, made, taken.snapshot_id))

    async def under_way() -> bool:
        return bool(appliance.node.rollbacks)

    await eventually(under_way)
    assert await _state(appliance, made) is SandboxState.ROLLING_BACK
    assert await appliance.reserved() == (2, 1024)
    assert _routes(appliance) == []
    assert (await appliance.master.get_route(made.sandbox_id)).state == "transitioning"
    with pytest.raises(errors.SandboxTransitioning, match="being rolled back"):
        await appliance.master.set_timeout(made.sandbox_id, NewTimeout(timeout_s=9))
    with pytest.raises(errors.SandboxTransitioning, match="being rolled back"):
        await _roll_back(appliance, made, taken.snapshot_id)
    await appliance.master.set_egress(made.sandbox_id, NewEgress(deny_out=("8.8.8.8/32",)))
    appliance.node.stall.set()
    assert (await rollback).deny_out == ("8.8.8.8/32",)
    assert appliance.node.policies[made.sandbox_id].deny_out == ("8.8.8.8/32",), "of what was asked meanwhile"
    assert await appliance.reserved() == (1, 512)

    appliance.node.stall, appliance.node.memory_mib = None, 1023
    await appliance.beat()
    with pytest.raises(errors.NoCapacity, match="until the sandbox's machine of before is gone"):
        await _roll_back(appliance, made, taken.snapshot_id)
    assert await _state(appliance, made) is SandboxState.RUNNING
    assert await appliance.reserved() == (1, 512)


class TestQuota:
    @pytest.fixture
    def settings(self, settings: CubeMasterSettings) -> CubeMasterSettings:
        return settings.model_copy(update={"quotas": QuotaSettings(concurrent_sandboxes=1, memory_mib=512)})

    async def test_a_team_that_has_all_it_may_have_rolls_back(self, appliance: Appliance) -> None:
        made, taken = await _snapshotted(appliance)
        await _roll_back(appliance, made, taken.snapshot_id)


async def test_killed_meanwhile_it_ends_and_all_is_given_back(appliance: Appliance) -> None:
    made, taken = await _snapshotted(appliance)
    appliance.node.stall = asyncio.Event()
    rollback = asyncio.create_task(_roll_back(appliance, made, taken.snapshot_id))

    async def under_way() -> bool:
        return bool(appliance.node.rollbacks)

    await eventually(under_way)
    await appliance.master.kill_sandbox(made.sandbox_id)
    appliance.node.stall.set()
    with pytest.raises(errors.SandboxTransitioning, match="killed"):
        await rollback
    ended = await appliance.master.get_sandbox(made.sandbox_id, ended=True)
    assert (ended.state, ended.end_reason) == (SandboxState.ENDED, EndReason.KILLED)
    assert await appliance.reserved() == (0, 0)
    assert _routes(appliance) == []


@pytest.mark.parametrize("create_deadline_s", [0.5])
async def test_one_whose_answer_never_came_shows_once_it_is_done(appliance: Appliance) -> None:
    made, taken = await _snapshotted(appliance)
    appliance.node.stall = asyncio.Event()
    with pytest.raises(errors.DeadlineExceeded):
        await _roll_back(appliance, made, taken.snapshot_id)
    assert await _state(appliance, made) is SandboxState.ROLLING_BACK
    appliance.db.execute(
        "UPDATE sandboxes SET changing_since = changing_since - INTERVAL 11 SECOND", database="cube_master"
    )

    async def settled() -> bool:
        return await _state(appliance, made) is SandboxState.RUNNING

    await eventually(settled, within_s=20)
    appliance.node.stall.set()
    assert (await appliance.master.get_route(made.sandbox_id)).address == "10.88.1.2"
    assert await appliance.reserved() == (1, 512)
    assert _events(appliance)[-1] == "sandbox_rolled_back"


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("asleep", [False, True])
async def test_what_a_dead_cubemaster_left_is_settled_by_the_node(
    appliance: Appliance, *, done: bool, asleep: bool
) -> None:
    made, taken = await _snapshotted(appliance)
    if done:
        appliance.node.roll_back(made.sandbox_id, Rollback(build_id=taken.build_id))
    if asleep:
        appliance.node.pause(made.sandbox_id)
    appliance.db.execute(
        "UPDATE sandboxes SET state = 'rolling_back', changing_since = UTC_TIMESTAMP(6) - INTERVAL 1 HOUR",
        "UPDATE nodes SET vcpus_reserved = 2, memory_reserved_mib = 1024",
        database="cube_master",
    )
    expected = SandboxState.PAUSED if asleep else SandboxState.RUNNING

    async def settled() -> bool:
        return await _state(appliance, made) is expected

    await eventually(settled, within_s=20)
    assert await appliance.reserved() == ((0, 0) if asleep else (1, 512))
    assert len(_routes(appliance)) == (0 if asleep else 1)
    if not asleep:
        route = await appliance.master.get_route(made.sandbox_id)
        assert route.address == appliance.node.sandboxes[made.sandbox_id].address


async def test_one_that_may_still_be_under_way_is_not_settled_against_it(appliance: Appliance) -> None:
    made, _ = await _snapshotted(appliance)
    appliance.node.busy.add(made.sandbox_id)
    appliance.db.execute(
        "UPDATE sandboxes SET state = 'rolling_back', changing_since = UTC_TIMESTAMP(6) - INTERVAL 11 SECOND",
        "UPDATE nodes SET vcpus_reserved = 2, memory_reserved_mib = 1024",
        database="cube_master",
    )
    await asyncio.sleep(6)
    assert await _state(appliance, made) is SandboxState.ROLLING_BACK
    assert await appliance.reserved() == (2, 1024)

    # As after a restart of the node's agent, which has forgotten the call.
    appliance.node.busy.clear()

    async def runs_on() -> bool:
        return await _state(appliance, made) is SandboxState.RUNNING

    await eventually(runs_on, within_s=20)
    assert await appliance.reserved() == (1, 512)
    assert _routes(appliance) == [f"cube:route:{made.sandbox_id}"]


async def test_one_that_took_effect_after_it_was_given_up_is_learned_from_a_heartbeat(appliance: Appliance) -> None:
    made, taken = await _snapshotted(appliance)
    late = appliance.node.status()
    appliance.node.roll_back(made.sandbox_id, Rollback(build_id=taken.build_id))
    await appliance.beat()
    address = appliance.node.sandboxes[made.sandbox_id].address
    assert (await appliance.master.get_route(made.sandbox_id)).address == address
    await appliance.master.heartbeat(late)
    assert (await appliance.master.get_route(made.sandbox_id)).address == address
    assert _events(appliance) == ["sandbox_started", "sandbox_rolled_back"]


@pytest.mark.parametrize("lost_after_s", [2])
async def test_with_its_node_lost_it_has_ended(appliance: Appliance) -> None:
    made, taken = await _snapshotted(appliance)
    appliance.node.stall = asyncio.Event()
    rollback = asyncio.create_task(_roll_back(appliance, made, taken.snapshot_id))

    async def ended() -> bool:
        return await _state(appliance, made) is SandboxState.ENDED

    await eventually(ended)
    assert await appliance.reserved() == (0, 0)
    appliance.node.stall.set()
    with pytest.raises(errors.Conflict):
        await rollback
