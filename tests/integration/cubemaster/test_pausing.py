"""Pause, resume, connect: what the row, the node's reservations, the quota and the routes say of each."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from appliance.contracts.master import NewConnect, NewPause, NewResume, NewTimeout, SandboxState, SandboxView
from appliance.contracts.node import EndedSandbox, EndReason, NodeSandboxState, OnTimeout, Resume
from appliance.cubemaster.settings import CubeMasterSettings, QuotaSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually


async def _running(appliance: Appliance, **fields: object) -> SandboxView:
    team_id, _ = await appliance.team(), await appliance.template()
    return await appliance.sandbox(team_id, **fields)


async def _paused(appliance: Appliance, **fields: object) -> SandboxView:
    made = await _running(appliance, **fields)
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    return await appliance.master.get_sandbox(made.sandbox_id)


def _routes(appliance: Appliance) -> list[str]:
    with appliance.redis.client() as redis:
        return [str(key) for key in redis.keys("cube:route:*")]


async def test_pause_gives_back_what_it_held_and_resume_takes_it_again(appliance: Appliance) -> None:
    made = await _running(appliance, metadata={"who": "agent"}, allow_internet=False)

    await appliance.master.pause_sandbox(made.sandbox_id, NewPause(team_id=made.team_id))

    paused = await appliance.master.get_sandbox(made.sandbox_id)
    assert paused.state is SandboxState.PAUSED
    assert paused.paused_at is not None
    assert await appliance.reserved() == (0, 0)
    assert _routes(appliance) == []
    with pytest.raises(errors.Conflict, match="'paused' state"):
        await appliance.master.pause_sandbox(made.sandbox_id, NewPause())

    before = datetime.now(UTC)
    connected = await appliance.master.connect_sandbox(made.sandbox_id, NewConnect(timeout_s=60))

    assert connected.resumed
    resumed = connected.sandbox
    assert (resumed.state, resumed.paused_at) == (SandboxState.RUNNING, None)
    assert (resumed.access_token, resumed.metadata) == (made.access_token, made.metadata)
    assert before + timedelta(seconds=60) <= resumed.end_at <= datetime.now(UTC) + timedelta(seconds=60)
    assert await appliance.reserved() == (1, 512)
    route = await appliance.master.get_route(made.sandbox_id)
    assert route.address == appliance.node.sandboxes[made.sandbox_id].address
    assert _routes(appliance) == [f"cube:route:{made.sandbox_id}"]
    (asked,) = appliance.node.resumes[made.sandbox_id]
    assert (asked.end_at, asked.access_token, asked.memory) == (resumed.end_at, made.access_token, True)
    assert not asked.network.allow_internet
    kinds = appliance.db.execute("SELECT kind FROM events ORDER BY event_id", database="cube_master")
    assert [row[0] for row in kinds] == ["sandbox_started", "sandbox_paused", "sandbox_resumed"]


async def test_connect_to_what_runs_keeps_or_extends_its_end(appliance: Appliance) -> None:
    made = await _running(appliance)
    kept = await appliance.master.connect_sandbox(made.sandbox_id, NewConnect(timeout_s=10))
    longer = await appliance.master.connect_sandbox(made.sandbox_id, NewConnect(timeout_s=1000))
    assert (kept.resumed, longer.resumed) == (False, False)
    assert kept.sandbox.end_at == made.end_at
    assert longer.sandbox.end_at > made.end_at
    with pytest.raises(errors.Conflict, match="already running"):
        await appliance.master.resume_sandbox(made.sandbox_id, NewResume(timeout_s=10))


async def test_of_several_who_connect_at_once_one_resumes_and_all_get_it(appliance: Appliance) -> None:
    paused = await _paused(appliance)

    connected = await asyncio.gather(
        *(appliance.master.connect_sandbox(paused.sandbox_id, NewConnect(timeout_s=60)) for _ in range(5))
    )

    assert sorted(one.resumed for one in connected) == [False, False, False, False, True]
    assert {one.sandbox.state for one in connected} == {SandboxState.RUNNING}
    assert len(appliance.node.resumes[paused.sandbox_id]) == 1
    assert await appliance.reserved() == (1, 512)


async def test_the_disk_alone_and_a_boot_from_it_are_asked_of_the_node(appliance: Appliance) -> None:
    made = await _running(appliance, on_timeout="pause_filesystem")
    assert appliance.node.requests[made.sandbox_id].on_timeout is OnTimeout.PAUSE_FILESYSTEM
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause(memory=False, require_healthy_guest=True))
    assert (await appliance.master.get_sandbox(made.sandbox_id)).filesystem_only
    (pause,) = appliance.node.pauses[made.sandbox_id]
    assert (pause.memory, pause.require_healthy_guest) == (False, True)

    await appliance.master.resume_sandbox(made.sandbox_id, NewResume(timeout_s=10, memory=False, auto_pause=False))

    (resume,) = appliance.node.resumes[made.sandbox_id]
    assert (resume.memory, resume.on_timeout) == (False, OnTimeout.KILL)
    assert (await appliance.master.get_sandbox(made.sandbox_id)).on_timeout is OnTimeout.KILL


async def test_a_pause_that_the_node_refuses_leaves_it_running(appliance: Appliance) -> None:
    made = await _running(appliance)
    appliance.node.fail_pause = errors.GuestUnresponsive(made.sandbox_id)

    with pytest.raises(errors.GuestUnresponsive):
        await appliance.master.pause_sandbox(made.sandbox_id, NewPause(require_healthy_guest=True))

    assert (await appliance.master.get_sandbox(made.sandbox_id)).state is SandboxState.RUNNING
    assert await appliance.reserved() == (1, 512)
    assert _routes(appliance) == [f"cube:route:{made.sandbox_id}"]


async def test_a_resume_that_fails_leaves_it_paused(appliance: Appliance) -> None:
    paused = await _paused(appliance)
    appliance.node.fail_resume = errors.VmmFailure("it did not restore")

    with pytest.raises(errors.VmmFailure, match="did not restore"):
        await appliance.master.connect_sandbox(paused.sandbox_id, NewConnect(timeout_s=10))

    again = await appliance.master.get_sandbox(paused.sandbox_id)
    assert (again.state, again.paused_at) == (SandboxState.PAUSED, paused.paused_at)
    assert await appliance.reserved() == (0, 0)
    appliance.node.fail_resume = None
    assert (await appliance.master.connect_sandbox(paused.sandbox_id, NewConnect(timeout_s=10))).resumed


async def test_a_paused_one_that_its_node_lost_is_gone(appliance: Appliance) -> None:
    paused = await _paused(appliance)
    appliance.node.sandboxes.clear()

    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.connect_sandbox(paused.sandbox_id, NewConnect(timeout_s=10))

    ended = await appliance.master.get_sandbox(paused.sandbox_id, ended=True)
    assert ended.end_reason is EndReason.VMM_DIED
    assert await appliance.reserved() == (0, 0)


async def test_without_room_a_resume_waits_for_nothing_and_changes_nothing(appliance: Appliance) -> None:
    paused = await _paused(appliance)
    appliance.node.vcpus = 1
    await appliance.beat()
    await appliance.sandbox(paused.team_id)

    with pytest.raises(errors.NoCapacity, match="keeps the paused sandbox") as refused:
        await appliance.master.connect_sandbox(paused.sandbox_id, NewConnect(timeout_s=10))

    assert refused.value.retry_after_s is not None
    assert (await appliance.master.get_sandbox(paused.sandbox_id)).state is SandboxState.PAUSED
    assert await appliance.reserved() == (1, 512)


async def test_a_paused_one_can_be_killed_and_has_no_time_to_set(appliance: Appliance) -> None:
    paused = await _paused(appliance)
    with pytest.raises(errors.Conflict, match="paused"):
        await appliance.master.set_timeout(paused.sandbox_id, NewTimeout(timeout_s=10))

    await appliance.master.kill_sandbox(paused.sandbox_id)

    assert await appliance.reserved() == (0, 0)
    assert appliance.node.sandboxes == {}
    ended = await appliance.master.get_sandbox(paused.sandbox_id, ended=True)
    assert ended.end_reason is EndReason.KILLED


async def test_a_kill_of_a_paused_one_that_is_finished_later_gives_nothing_back_twice(appliance: Appliance) -> None:
    paused = await _paused(appliance)
    await appliance.sandbox(paused.team_id)
    appliance.node.fail_delete = errors.Unavailable("busy")
    with pytest.raises(errors.NodeUnreachable):
        await appliance.master.kill_sandbox(paused.sandbox_id)
    appliance.node.fail_delete = None

    async def finished() -> bool:
        await appliance.beat()
        return paused.sandbox_id not in appliance.node.sandboxes

    await eventually(finished)
    assert await appliance.reserved() == (1, 512)


async def test_a_template_of_paused_sandboxes_is_in_use(appliance: Appliance) -> None:
    paused = await _paused(appliance)
    with pytest.raises(errors.TemplateInUse, match="paused sandboxes"):
        await appliance.master.delete_template("base")
    await appliance.master.kill_sandbox(paused.sandbox_id)
    await appliance.master.delete_template("base")


async def test_one_that_its_node_paused_is_paused_here_too(appliance: Appliance) -> None:
    made = await _running(appliance, on_timeout="pause")
    stale = appliance.node.status()
    appliance.node.pause(made.sandbox_id)

    await appliance.beat()

    paused = await appliance.master.get_sandbox(made.sandbox_id)
    assert (paused.state, paused.paused_at) == (
        SandboxState.PAUSED,
        appliance.node.sandboxes[made.sandbox_id].paused_at,
    )
    assert await appliance.reserved() == (0, 0)
    assert _routes(appliance) == []
    slept = appliance.node.status()
    await appliance.master.connect_sandbox(made.sandbox_id, NewConnect(timeout_s=10))
    # Heartbeats from before the resume, and from before the pause, that arrive late.
    await appliance.master.heartbeat(slept)
    await appliance.master.heartbeat(stale)
    assert (await appliance.master.get_sandbox(made.sandbox_id)).state is SandboxState.RUNNING
    assert await appliance.reserved() == (1, 512)


async def test_connect_finds_what_its_node_has_just_paused(appliance: Appliance) -> None:
    made = await _running(appliance, on_timeout="pause")
    await appliance.master.set_timeout(made.sandbox_id, NewTimeout(timeout_s=0))
    appliance.node.pause(made.sandbox_id)

    connected = await appliance.master.connect_sandbox(made.sandbox_id, NewConnect(timeout_s=10))

    assert connected.resumed
    assert appliance.node.sandboxes[made.sandbox_id].state is NodeSandboxState.RUNNING
    assert await appliance.reserved() == (1, 512)


async def test_the_end_of_a_sandbox_keeps_its_reason_while_a_pause_looks_for_it(appliance: Appliance) -> None:
    made = await _running(appliance)
    appliance.node.sandboxes.clear()
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.pause_sandbox(made.sandbox_id, NewPause())

    ended = EndedSandbox(sandbox_id=made.sandbox_id, reason=EndReason.TIMEOUT, ended_at=datetime.now(UTC))
    await appliance.master.report_ended("cube-1", [ended])

    assert (await appliance.master.get_sandbox(made.sandbox_id, ended=True)).end_reason is EndReason.TIMEOUT
    assert await appliance.reserved() == (0, 0)


@pytest.mark.parametrize("lost_after_s", [2])
async def test_a_lost_node_keeps_its_paused_sandboxes(appliance: Appliance) -> None:
    paused = await _paused(appliance)

    async def lost() -> bool:
        return (await appliance.master.list_nodes())[0].state == "lost"

    await eventually(lost)
    assert (await appliance.master.get_sandbox(paused.sandbox_id)).state is SandboxState.PAUSED
    with pytest.raises(errors.NoCapacity):
        await appliance.master.connect_sandbox(paused.sandbox_id, NewConnect(timeout_s=10))
    appliance.node.boot_id = "22222222-2222-2222-2222-222222222222"
    await appliance.beat()
    assert (await appliance.master.connect_sandbox(paused.sandbox_id, NewConnect(timeout_s=10))).resumed


@pytest.mark.parametrize("state", ["pausing", "resuming", "snapshotting"])
@pytest.mark.parametrize("asleep", [False, True])
async def test_what_a_dead_cubemaster_left_is_settled_by_the_node(
    appliance: Appliance, state: str, *, asleep: bool
) -> None:
    made = await _running(appliance)
    if asleep:
        appliance.node.pause(made.sandbox_id)
    appliance.db.execute(
        f"UPDATE sandboxes SET state = '{state}', changing_since = UTC_TIMESTAMP(6) - INTERVAL 1 HOUR",
        database="cube_master",
    )

    expected = SandboxState.PAUSED if asleep else SandboxState.RUNNING

    async def settled() -> bool:
        return (await appliance.master.get_sandbox(made.sandbox_id)).state is expected

    await eventually(settled, within_s=20)
    assert await appliance.reserved() == ((0, 0) if asleep else (1, 512))
    assert len(_routes(appliance)) == (0 if asleep else 1)


async def test_a_resume_that_took_effect_after_it_was_given_up_is_taken_back(appliance: Appliance) -> None:
    paused = await _paused(appliance)
    # As the reconciler would have recorded it before the node came to it.
    appliance.node.resume(paused.sandbox_id, Resume(end_at=paused.end_at))

    async def asleep() -> bool:
        await appliance.beat()
        return appliance.node.sandboxes[paused.sandbox_id].state is NodeSandboxState.PAUSED

    await eventually(asleep)
    assert await appliance.reserved() == (0, 0)


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_resume_is_given_up_as_soon_as_its_node_is_not_at_it(appliance: Appliance, *, under_way: bool) -> None:
    paused = await _paused(appliance)
    if under_way:
        appliance.node.busy.add(paused.sandbox_id)
    appliance.db.execute(
        "UPDATE sandboxes SET state = 'resuming', changing_since = UTC_TIMESTAMP(6) - INTERVAL 11 SECOND",
        "UPDATE nodes SET vcpus_reserved = 1, memory_reserved_mib = 512",
        database="cube_master",
    )

    async def settled() -> bool:
        return (await appliance.master.get_sandbox(paused.sandbox_id)).state is not SandboxState.RESUMING

    if under_way:
        await asyncio.sleep(6)
        assert not await settled()
        assert await appliance.reserved() == (1, 512)
        # The node comes to its end, and nobody has heard of that.
        appliance.node.resume(paused.sandbox_id, Resume(end_at=paused.end_at))
        appliance.node.busy.clear()
    await eventually(settled, within_s=20)
    now = await appliance.master.get_sandbox(paused.sandbox_id)
    assert now.state is (SandboxState.RUNNING if under_way else SandboxState.PAUSED)
    assert await appliance.reserved() == ((1, 512) if under_way else (0, 0))


class TestQuota:
    @pytest.fixture
    def settings(self, settings: CubeMasterSettings) -> CubeMasterSettings:
        return settings.model_copy(update={"quotas": QuotaSettings(concurrent_sandboxes=2)})

    async def test_paused_ones_do_not_count_and_of_many_resumes_as_many_as_fit_succeed(
        self, appliance: Appliance
    ) -> None:
        team_id, _ = await appliance.team(), await appliance.template()
        paused = []
        for _ in range(5):
            made = await appliance.sandbox(team_id, auto_resume=True)
            await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
            paused.append(made.sandbox_id)

        outcomes = await asyncio.gather(
            *(appliance.master.connect_sandbox(one, NewConnect(timeout_s=10)) for one in paused[:3]),
            *(appliance.master.wake(one) for one in paused[3:]),
            return_exceptions=True,
        )

        refused = [one for one in outcomes if isinstance(one, BaseException)]
        assert [type(one) for one in refused] == [errors.QuotaExceeded] * 3
        assert await appliance.reserved() == (2, 1024)
        with pytest.raises(errors.QuotaExceeded):
            await appliance.sandbox(team_id)
