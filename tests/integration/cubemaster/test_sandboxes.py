from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import pytest

from appliance.contracts.master import NewTimeout, SandboxState
from appliance.contracts.node import EndedSandbox, EndReason
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually


async def test_create_starts_it_on_the_node_and_publishes_its_route(appliance: Appliance) -> None:
    team_id, template_id = await appliance.team(), await appliance.template()

    made = await appliance.sandbox(team_id, metadata={"who": "agent"}, env_vars={"A": "1"})

    assert made.state is SandboxState.RUNNING
    assert (made.template_id, made.alias, made.metadata) == (template_id, "base", {"who": "agent"})
    assert made.end_at - made.started_at == pytest.approx(timedelta(seconds=300), abs=timedelta(seconds=5))
    asked = appliance.node.requests[made.sandbox_id]
    assert asked.env_vars == {"A": "1"}
    assert asked.end_at == made.end_at
    assert await appliance.reserved() == (1, 512)
    with appliance.redis.client() as redis:
        assert json.loads(str(redis.get(f"cube:route:{made.sandbox_id}"))) == {
            "node": "cube-1",
            "address": appliance.node.sandboxes[made.sandbox_id].address,
            "state": "running",
            "auto_resume": False,
            "traffic_token_sha256": None,
            "mask_request_host": None,
            "https_ports": [],
        }
    route = await appliance.master.get_route(made.sandbox_id)
    assert route.address == appliance.node.sandboxes[made.sandbox_id].address


async def test_access_token_is_derived_from_the_seed_and_only_for_secure_sandboxes(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()

    secure = await appliance.sandbox(team_id)
    open_one = await appliance.sandbox(team_id, secure=False)

    expected = hmac.new(b"seed", secure.sandbox_id.encode(), hashlib.sha256).hexdigest()
    assert secure.access_token == expected == appliance.node.requests[secure.sandbox_id].access_token
    assert open_one.access_token is None
    assert appliance.node.requests[open_one.sandbox_id].access_token is None


async def test_kill_frees_everything_and_keeps_the_reason(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)

    await appliance.master.kill_sandbox(made.sandbox_id, team_id=team_id)

    assert appliance.node.sandboxes == {}
    assert await appliance.reserved() == (0, 0)
    with appliance.redis.client() as redis:
        assert redis.get(f"cube:route:{made.sandbox_id}") is None
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.get_sandbox(made.sandbox_id)
    with pytest.raises(errors.NotFound):
        await appliance.master.get_route(made.sandbox_id)
    ended = await appliance.master.get_sandbox(made.sandbox_id, ended=True)
    assert (ended.state, ended.end_reason) == (SandboxState.ENDED, EndReason.KILLED)
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.kill_sandbox(made.sandbox_id)
    kinds = appliance.db.execute("SELECT kind FROM events ORDER BY event_id", database="cube_master")
    assert [row[0] for row in kinds] == ["sandbox_started", "sandbox_ended"]


async def test_a_failure_of_the_node_leaves_no_reservation_and_its_own_error(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    appliance.node.fail_create = errors.GuestFailure("the guest did not acknowledge /init")

    with pytest.raises(errors.GuestFailure, match="did not acknowledge"):
        await appliance.sandbox(team_id)

    assert await appliance.reserved() == (0, 0)
    rows = appliance.db.execute("SELECT state, end_reason, end_detail FROM sandboxes", database="cube_master")
    assert rows == [("ended", "failed_start", "the guest did not acknowledge /init")]


@pytest.mark.parametrize("create_deadline_s", [0.5])
async def test_an_answer_that_never_comes_is_undone_on_the_node(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    appliance.node.stall_create = asyncio.Event()

    with pytest.raises(errors.DeadlineExceeded):
        await appliance.sandbox(team_id)

    appliance.node.stall_create.set()
    assert appliance.node.sandboxes == {}
    assert len(appliance.node.deleted) == 1
    assert await appliance.reserved() == (0, 0)
    rows = appliance.db.execute("SELECT end_reason FROM sandboxes", database="cube_master")
    assert [row[0] for row in rows] == ["failed_start"]


async def test_the_same_idempotency_key_is_the_same_sandbox(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()

    made = await asyncio.gather(*(appliance.sandbox(team_id, idempotency_key="key-1") for _ in range(10)))
    other = await appliance.sandbox(team_id, idempotency_key="key-2")

    assert len({one.sandbox_id for one in made}) == 1
    assert set(appliance.node.sandboxes) == {made[0].sandbox_id, other.sandbox_id}
    assert await appliance.reserved() == (2, 1024)


async def test_a_failed_create_gives_its_idempotency_key_back(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    appliance.node.fail_create = errors.VmmFailure("no")
    with pytest.raises(errors.VmmFailure):
        await appliance.sandbox(team_id, idempotency_key="key-1")
    appliance.node.fail_create = None

    made = await appliance.sandbox(team_id, idempotency_key="key-1")

    assert made.state is SandboxState.RUNNING


async def test_capacity_is_never_exceeded_by_creates_at_once(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    appliance.node.vcpus = 3
    await appliance.beat()

    made = await asyncio.gather(*(appliance.sandbox(team_id) for _ in range(12)), return_exceptions=True)

    refused = [one for one in made if isinstance(one, BaseException)]
    assert [type(one) for one in refused] == [errors.NoCapacity] * 9
    assert len(appliance.node.sandboxes) == 3
    assert await appliance.reserved() == (3, 1536)


async def test_another_teams_sandbox_does_not_exist(appliance: Appliance) -> None:
    mine, theirs = await appliance.team("mine"), await appliance.team("theirs")
    await appliance.template(team="mine")
    made = await appliance.sandbox(mine)

    for call in (
        appliance.master.get_sandbox(made.sandbox_id, team_id=theirs),
        appliance.master.kill_sandbox(made.sandbox_id, team_id=theirs),
        appliance.master.set_timeout(made.sandbox_id, NewTimeout(team_id=theirs, timeout_s=1)),
    ):
        with pytest.raises(errors.SandboxNotFound):
            await call
    assert (await appliance.master.list_sandboxes(team_id=theirs)).sandboxes == ()
    assert (await appliance.master.get_sandbox(made.sandbox_id, team_id=mine)).state is SandboxState.RUNNING


async def test_timeout_may_shorten_and_extend_only_may_not(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)

    kept = await appliance.master.set_timeout(made.sandbox_id, NewTimeout(timeout_s=10, extend_only=True))
    shorter = await appliance.master.set_timeout(made.sandbox_id, NewTimeout(timeout_s=10))

    assert kept.end_at == made.end_at
    assert shorter.end_at < made.end_at
    assert appliance.node.sandboxes[made.sandbox_id].end_at == shorter.end_at


async def test_pages_follow_each_other_and_filters_hold(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = [await appliance.sandbox(team_id, metadata={"n": str(n), "é": "ü"}) for n in range(5)]
    newest_first = [one.sandbox_id for one in reversed(made)]

    first = await appliance.master.list_sandboxes(team_id=team_id, limit=3)
    rest = await appliance.master.list_sandboxes(team_id=team_id, limit=3, cursor=first.next_cursor)

    assert [one.sandbox_id for one in first.sandboxes + rest.sandboxes] == newest_first
    assert (first.total_running, rest.next_cursor) == (5, None)
    ascending = await appliance.master.list_sandboxes(order="asc")
    assert [one.sandbox_id for one in ascending.sandboxes] == newest_first[::-1]
    by_metadata = await appliance.master.list_sandboxes(metadata={"n": "2", "é": "ü"})
    assert [one.sandbox_id for one in by_metadata.sandboxes] == [made[2].sandbox_id]
    assert (await appliance.master.list_sandboxes(metadata={"n": "2", "é": "x"})).sandboxes == ()
    later = await appliance.master.list_sandboxes(started_after=made[3].started_at)
    assert {one.sandbox_id for one in later.sandboxes} == {made[3].sandbox_id, made[4].sandbox_id}
    assert len((await appliance.master.list_sandboxes(template="base")).sandboxes) == 5
    assert (await appliance.master.list_sandboxes(template="unknown")).sandboxes == ()
    with pytest.raises(errors.InvalidRequest):
        await appliance.master.list_sandboxes(cursor="nonsense")


@pytest.mark.parametrize("sandbox_id", ["iunknown", "ünïcode", "' OR 1=1 --", "x" * 500])
async def test_an_unknown_id_is_not_found(appliance: Appliance, sandbox_id: str) -> None:
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.get_sandbox(sandbox_id)


async def test_a_kill_that_the_node_does_not_answer_is_done_later(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)
    appliance.node.fail_delete = errors.Unavailable("busy")

    with pytest.raises(errors.NodeUnreachable):
        await appliance.master.kill_sandbox(made.sandbox_id)
    assert (await appliance.master.list_sandboxes()).sandboxes == ()
    assert await appliance.reserved() == (1, 512)
    appliance.node.fail_delete = None
    await appliance.beat()

    async def freed() -> bool:
        await appliance.beat()
        return await appliance.reserved() == (0, 0)

    await eventually(freed)
    ended = await appliance.master.get_sandbox(made.sandbox_id, ended=True)
    assert ended.end_reason is EndReason.KILLED


async def test_whoever_comes_first_ends_it_once(appliance: Appliance) -> None:
    """Kills, timeouts, the node's word and its heartbeats at once, on each of several sandboxes."""
    team_id, _ = await appliance.team(), await appliance.template()
    made = [await appliance.sandbox(team_id) for _ in range(5)]

    async def try_to(work: Awaitable[object]) -> None:
        try:
            await work
        except (errors.SandboxNotFound, errors.SandboxTransitioning):
            return

    calls: list[Awaitable[object]] = []
    for one in made:
        died = EndedSandbox(sandbox_id=one.sandbox_id, reason=EndReason.VMM_DIED, ended_at=datetime.now(UTC))
        for seconds in range(4):
            calls += [
                appliance.master.kill_sandbox(one.sandbox_id),
                appliance.master.set_timeout(one.sandbox_id, NewTimeout(timeout_s=100 + seconds)),
                appliance.master.report_ended("cube-1", [died]),
                appliance.beat(),
            ]
    random.Random(1).shuffle(calls)
    await asyncio.gather(*(try_to(call) for call in calls))

    assert await appliance.reserved() == (0, 0)
    rows = appliance.db.execute(
        "SELECT sandbox_id, COUNT(*) FROM events WHERE kind = 'sandbox_ended' GROUP BY sandbox_id",
        database="cube_master",
    )
    assert {row[0]: row[1] for row in rows} == {one.sandbox_id: 1 for one in made}
    with appliance.redis.client() as redis:
        assert redis.keys("cube:route:*") == []
