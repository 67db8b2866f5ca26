from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from appliance.contracts.master import SandboxView
from appliance.contracts.node import EndedSandbox, EndReason, NodeSandbox
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually


async def _running(appliance: Appliance) -> SandboxView:
    team_id, _ = await appliance.team(), await appliance.template()
    return await appliance.sandbox(team_id)


async def _reason(appliance: Appliance, sandbox_id: str) -> EndReason | None:
    return (await appliance.master.get_sandbox(sandbox_id, ended=True)).end_reason


async def test_the_nodes_word_for_an_end_is_kept_and_told_once(appliance: Appliance) -> None:
    made = await _running(appliance)
    appliance.node.sandboxes.clear()
    first = EndedSandbox(
        sandbox_id=made.sandbox_id, reason=EndReason.OOM_GUEST, detail="killed 1", ended_at=datetime.now(UTC)
    )
    later = first.model_copy(update={"reason": EndReason.VMM_DIED})

    await appliance.master.report_ended("cube-1", [first])
    await appliance.master.report_ended("cube-1", [first, later])

    ended = await appliance.master.get_sandbox(made.sandbox_id, ended=True)
    assert (ended.end_reason, ended.end_detail) == (EndReason.OOM_GUEST, "killed 1")
    assert await appliance.reserved() == (0, 0)
    with appliance.redis.client() as redis:
        assert redis.keys("cube:route:*") == []
    (count,) = appliance.db.execute("SELECT COUNT(*) FROM events WHERE kind = 'sandbox_ended'", database="cube_master")
    assert count[0] == 1


async def test_a_node_cannot_end_what_is_not_its_own(appliance: Appliance) -> None:
    made = await _running(appliance)
    await appliance.master.report_ended(
        "cube-2", [EndedSandbox(sandbox_id=made.sandbox_id, reason=EndReason.KILLED, ended_at=datetime.now(UTC))]
    )
    assert await _reason(appliance, made.sandbox_id) is None


async def test_a_sandbox_that_its_node_lost_has_died(appliance: Appliance) -> None:
    made = await _running(appliance)
    appliance.node.sandboxes.clear()

    async def ended() -> bool:
        await appliance.beat()
        return await _reason(appliance, made.sandbox_id) is EndReason.VMM_DIED

    await eventually(ended)
    assert await appliance.reserved() == (0, 0)


async def test_a_reboot_ends_what_ran(appliance: Appliance) -> None:
    made = await _running(appliance)
    appliance.node.sandboxes.clear()
    appliance.node.boot_id = "22222222-2222-2222-2222-222222222222"

    await appliance.beat()

    assert await _reason(appliance, made.sandbox_id) is EndReason.NODE_REBOOTED
    assert await appliance.reserved() == (0, 0)


@pytest.mark.parametrize("lost_after_s", [2])
async def test_a_silent_node_is_lost_and_must_drop_its_sandboxes_when_it_returns(appliance: Appliance) -> None:
    made = await _running(appliance)

    async def ended() -> bool:
        return await _reason(appliance, made.sandbox_id) is EndReason.NODE_LOST

    await eventually(ended)
    (node,) = await appliance.master.list_nodes()
    assert (node.state, node.sandboxes, node.vcpus_reserved) == ("lost", 0, 0)
    with pytest.raises(errors.NoCapacity, match="node list"):
        await appliance.sandbox(made.team_id)

    await appliance.beat()

    async def dropped() -> bool:
        return appliance.node.sandboxes == {}

    await eventually(dropped)
    (node,) = await appliance.master.list_nodes()
    assert node.state == "ready"


async def test_a_sandbox_nobody_knows_is_deleted_from_the_node(appliance: Appliance) -> None:
    made = await _running(appliance)
    known = appliance.node.sandboxes[made.sandbox_id]
    stranger = known.model_copy(update={"sandbox_id": "istranger"})
    appliance.node.sandboxes["istranger"] = NodeSandbox.model_validate(stranger)

    await appliance.beat()

    async def dropped() -> bool:
        return set(appliance.node.sandboxes) == {made.sandbox_id}

    await eventually(dropped)


async def test_a_deadline_that_the_node_missed_is_given_to_it_again(appliance: Appliance) -> None:
    made = await _running(appliance)
    here = appliance.node.sandboxes
    here[made.sandbox_id] = here[made.sandbox_id].model_copy(update={"end_at": datetime(2020, 1, 1, tzinfo=UTC)})

    await appliance.beat()

    async def mended() -> bool:
        return here[made.sandbox_id].end_at == made.end_at

    await eventually(mended)


async def test_a_node_that_is_not_ready_gets_no_sandboxes(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    appliance.node.ready = False
    await appliance.beat()
    with pytest.raises(errors.NoCapacity):
        await appliance.sandbox(team_id)


async def test_a_template_that_vanished_from_the_node_is_not_used_until_it_is_back(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await appliance.beat()
    kept = dict(appliance.node.finished)
    appliance.node.finished.clear()

    async def unusable() -> bool:
        await appliance.beat()
        return (await appliance.master.get_template("base")).nodes == ()

    await eventually(unusable)
    with pytest.raises(errors.NoCapacity):
        await appliance.sandbox(team_id)
    appliance.node.finished.update(kept)
    await appliance.beat()
    assert (await appliance.sandbox(team_id)).node_id == "cube-1"


async def test_heartbeats_and_creates_at_once_disturb_nothing(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()

    async def beat_often() -> None:
        for _ in range(20):
            await appliance.beat()

    async with asyncio.TaskGroup() as group:
        group.create_task(beat_often())
        creates = [group.create_task(appliance.sandbox(team_id)) for _ in range(10)]
    made = [create.result() for create in creates]

    assert set(appliance.node.sandboxes) == {one.sandbox_id for one in made}
    assert await appliance.reserved() == (10, 5120)
