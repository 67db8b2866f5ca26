"""Forks: copies with lives of their own, and nothing left of what they were started from."""

from __future__ import annotations

import asyncio

import pytest

from appliance.contracts.master import NewFork, NewPause, SandboxState, SandboxView
from appliance.cubemaster.settings import CubeMasterSettings, QuotaSettings
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually


async def _running(appliance: Appliance, **fields: object) -> SandboxView:
    team_id, _ = await appliance.team(), await appliance.template()
    return await appliance.sandbox(team_id, **fields)


async def _nothing_left(appliance: Appliance) -> None:
    async def freed() -> bool:
        await appliance.beat()
        return not appliance.node.snapshots

    await eventually(freed, within_s=20)
    rows = appliance.db.execute(
        "SELECT 1 FROM templates WHERE kind = 'fork' AND deleted_at IS NULL", database="cube_master"
    )
    assert rows == []


async def test_copies_have_ids_tokens_and_ends_of_their_own(appliance: Appliance) -> None:
    source = await _running(
        appliance, metadata={"who": "agent"}, allow_internet=False, on_timeout="pause", https_ports=(8443,)
    )

    forked = await appliance.master.fork_sandbox(
        source.sandbox_id, NewFork(team_id=source.team_id, timeout_s=60, count=3)
    )

    copies = [one.sandbox for one in forked if one.sandbox]
    assert len(copies) == 3
    assert len({one.sandbox_id for one in copies} | {source.sandbox_id}) == 4
    assert len({one.access_token for one in copies} | {source.access_token}) == 4
    for copy in copies:
        assert copy.state is SandboxState.RUNNING
        assert (copy.template_id, copy.build_id, copy.metadata) == (
            source.template_id,
            source.build_id,
            source.metadata,
        )
        assert copy.https_ports == (8443,)
        assert copy.end_at < source.end_at
        asked = appliance.node.requests[copy.sandbox_id]
        assert asked.build_id in appliance.node.snapshots
        assert (asked.access_token, asked.on_timeout, asked.network.allow_internet) == (
            copy.access_token,
            "pause",
            False,
        )
    after = await appliance.master.get_sandbox(source.sandbox_id)
    assert (after.state, after.end_at) == (SandboxState.RUNNING, source.end_at)
    assert await appliance.reserved() == (4, 2048)
    assert len(await appliance.master.list_templates()) == 1
    assert (await appliance.master.list_snapshots()).snapshots == ()
    # The node keeps what they run from until they have ended.
    for copy in copies:
        await appliance.master.kill_sandbox(copy.sandbox_id)
    await _nothing_left(appliance)


async def test_where_some_fail_the_others_run(appliance: Appliance) -> None:
    source = await _running(appliance)
    appliance.node.vcpus = 3
    await appliance.beat()

    forked = await appliance.master.fork_sandbox(source.sandbox_id, NewFork(timeout_s=60, count=4))

    assert sum(one.sandbox is not None for one in forked) == 2
    refused = [one.error for one in forked if one.error]
    assert [one.code for one in refused] == [503, 503]
    assert await appliance.reserved() == (3, 1536)


async def test_what_is_paused_or_unknown_is_not_forked(appliance: Appliance) -> None:
    source = await _running(appliance)
    await appliance.master.pause_sandbox(source.sandbox_id, NewPause())
    with pytest.raises(errors.Conflict, match="cannot be forked while in 'paused' state"):
        await appliance.master.fork_sandbox(source.sandbox_id, NewFork(timeout_s=60))
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.fork_sandbox("iunknown", NewFork(timeout_s=60))


async def test_a_fork_whose_snapshot_or_copies_fail_leaves_nothing(appliance: Appliance) -> None:
    source = await _running(appliance)
    appliance.node.fail_snapshot = errors.DiskFull("no room")
    with pytest.raises(errors.DiskFull):
        await appliance.master.fork_sandbox(source.sandbox_id, NewFork(timeout_s=60))
    appliance.node.fail_snapshot = None
    appliance.node.fail_create = errors.GuestFailure("it did not wake")

    (failed,) = await appliance.master.fork_sandbox(source.sandbox_id, NewFork(timeout_s=60))

    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == (500, "it did not wake")
    assert await appliance.reserved() == (1, 512)
    await _nothing_left(appliance)


async def test_what_a_dead_cubemaster_forked_from_is_found_again(appliance: Appliance) -> None:
    source = await _running(appliance)
    appliance.node.stall_create = asyncio.Event()
    forking = asyncio.create_task(appliance.master.fork_sandbox(source.sandbox_id, NewFork(timeout_s=60)))

    async def copying() -> bool:
        return len(appliance.node.sandboxes) == 2

    await eventually(copying)
    appliance.db.execute(
        "UPDATE templates SET created_at = created_at - INTERVAL 1 HOUR WHERE kind = 'fork'", database="cube_master"
    )

    async def given_up() -> bool:
        return bool(appliance.db.execute("SELECT 1 FROM replicas WHERE state = 'deleting'", database="cube_master"))

    await eventually(given_up, within_s=20)
    appliance.node.stall_create.set()
    (forked,) = await forking
    assert forked.sandbox is not None
    await appliance.master.kill_sandbox(forked.sandbox.sandbox_id)
    await _nothing_left(appliance)


class TestQuota:
    @pytest.fixture
    def settings(self, settings: CubeMasterSettings) -> CubeMasterSettings:
        return settings.model_copy(update={"quotas": QuotaSettings(concurrent_sandboxes=3)})

    async def test_copies_count_and_more_than_can_be_are_refused_at_once(self, appliance: Appliance) -> None:
        source = await _running(appliance)
        with pytest.raises(errors.InvalidRequest, match=r"maximum number of concurrent sandboxes \(3\)"):
            await appliance.master.fork_sandbox(source.sandbox_id, NewFork(timeout_s=60, count=3))
        await appliance.sandbox(source.team_id)

        forked = await appliance.master.fork_sandbox(source.sandbox_id, NewFork(timeout_s=60, count=2))

        assert sorted(one.error.code if one.error else 0 for one in forked) == [0, 429]
        assert await appliance.reserved() == (3, 1536)
