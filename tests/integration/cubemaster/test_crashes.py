"""CubeMaster killed at each step of what it does: nothing lost, nothing half-written, and the same call works again.

What only time brings on - a change that nobody waits for any more, a lease that runs out - is brought on by moving the
times in the rows into the past.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.clients.master import MasterClient
from appliance.common.http import InternalClient
from appliance.contracts.egress import Transform, WorkloadToken
from appliance.contracts.master import (
    NewConnect,
    NewEgress,
    NewFork,
    NewPause,
    NewResume,
    NewSnapshot,
    SandboxState,
    SandboxView,
)
from appliance.contracts.node import BuildRequest, BuildState, EndedSandbox, EndReason, NodeSandboxState
from appliance.contracts.secrets import NewSecret, SecretUpdate
from appliance.contracts.templates import BuildStatus, NewTemplate
from appliance.cubemaster.settings import (
    BuildSettings,
    CubeMasterSettings,
    DatabaseSettings,
    NodeSettings,
    RedisSettings,
)
from appliance.domain import errors
from tests.integration.cubemaster.conftest import DATABASE, Appliance, eventually
from tests.support.fake_node import FakeNode
from tests.support.mariadb import MariaDb
from tests.support.master_process import MasterProcess, master_process
from tests.support.redis_server import RedisServer

RUNNING, PAUSED, ENDED = SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.ENDED
_SETTLED_WITHIN_S = 60

PATIENCE_IS_OVER = "UPDATE sandboxes SET changing_since = changing_since - INTERVAL 11 SECOND"
"""After that CubeMaster asks what became of a change."""
NO_CALL_IS_LEFT = (
    "UPDATE sandboxes SET started_at = started_at - INTERVAL 1 HOUR WHERE state = 'creating'",
    "UPDATE builds SET created_at = created_at - INTERVAL 1 HOUR WHERE source_sandbox_id IS NOT NULL",
    "UPDATE templates SET created_at = created_at - INTERVAL 1 HOUR WHERE kind = 'fork'",
)
"""After that creates, captures and forks are given up."""
LEASES_RAN_OUT = "UPDATE builds SET lease_until = lease_until - INTERVAL 2 MINUTE"


@pytest.fixture(scope="module")
def process(server: MariaDb, redis_process: RedisServer) -> Iterator[MasterProcess]:
    with tempfile.TemporaryDirectory(prefix="cube-") as name:
        base = Path(name)
        settings = CubeMasterSettings(
            socket=base / "master",
            data_dir=base / "data",
            failpoints=base / "failpoint",
            database=DatabaseSettings(socket=server.socket, name=DATABASE, user=server.user, password=False),
            redis=RedisSettings(socket=redis_process.socket, password=False),
            nodes=NodeSettings(lost_after_s=3600, missing_grace_s=0.3),
            builds=BuildSettings(poll_interval_s=0.05),
            route_check_interval_s=0.1,
        )
        with master_process(base, settings) as running:
            yield running


@pytest.fixture
async def appliance(process: MasterProcess, db: MariaDb, redis: RedisServer) -> AsyncIterator[Appliance]:
    """CubeMaster as a process, with one registered node, which builds templates by itself."""
    await process.start_again()
    node = FakeNode(process.base / "node")

    async def build(request: BuildRequest) -> None:
        node.finish_build(request.build_id, BuildState.READY)

    node.builder = build
    http = InternalClient(f"unix://{process.settings.socket}", service="cube-master")
    async with node.serving(), http:
        running = Appliance(MasterClient(http), node, process.settings, db, redis)
        await running.beat()
        yield running
        # What is armed and was not reached is not the next test's.
        process.failpoint.unlink(missing_ok=True)


def rows(appliance: Appliance, query: str) -> list[tuple[object, ...]]:
    return appliance.db.execute(query, database=DATABASE)


def routes(appliance: Appliance) -> dict[str, str]:
    """Return what CubeProxy reads, by sandbox."""
    with appliance.redis.client() as redis:
        return {str(key).removeprefix("cube:route:"): str(redis.get(str(key))) for key in redis.keys("cube:route:*")}


async def come_true(appliance: Appliance, holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for `holds()` while the node sends heartbeats."""

    async def looked_at() -> bool:
        await appliance.beat()
        return await holds()

    await eventually(looked_at, within_s=_SETTLED_WITHIN_S)


async def start_again(appliance: Appliance, process: MasterProcess, *past: str) -> None:
    appliance.db.execute(*past, database=DATABASE)
    await process.start_again()


async def running(appliance: Appliance, **fields: object) -> SandboxView:
    team_id, _ = await appliance.team(), await appliance.template()
    return await appliance.sandbox(team_id, **fields)


async def becomes(appliance: Appliance, sandbox_id: str, state: SandboxState) -> None:
    """Wait until row, node, reservations and route of the only sandbox agree that it is `state`."""

    async def agreed() -> bool:
        row = await appliance.master.get_sandbox(sandbox_id, ended=True)
        on_node = appliance.node.sandboxes.get(sandbox_id)
        address = on_node.address if on_node is not None else None
        routed = routes(appliance)
        return (
            row.state is state
            and (on_node is not None) is (state is not ENDED)
            and (address is not None) is (state is RUNNING)
            and await appliance.reserved() == ((1, 512) if state is RUNNING else (0, 0))
            and (set(routed) == {sandbox_id} and f'"{address}"' in routed[sandbox_id] if address else not routed)
        )

    await come_true(appliance, agreed)


@pytest.mark.parametrize(
    ("point", "state"),
    [
        ("pause:written", RUNNING),
        ("pause:withdrawn", RUNNING),
        ("pause:carried-out", PAUSED),
        ("settle:written", PAUSED),
    ],
)
async def test_a_pause_cut_short(point: str, state: SandboxState, appliance: Appliance, process: MasterProcess) -> None:
    made = await running(appliance)
    pause, connect = NewPause(team_id=made.team_id), NewConnect(timeout_s=60)
    await process.dies_at(point, appliance.master.pause_sandbox(made.sandbox_id, pause))
    await start_again(appliance, process, PATIENCE_IS_OVER)

    await becomes(appliance, made.sandbox_id, state)
    if state is RUNNING:
        await appliance.master.pause_sandbox(made.sandbox_id, pause)
    else:
        with pytest.raises(errors.Conflict, match="in 'paused' state"):
            await appliance.master.pause_sandbox(made.sandbox_id, pause)
    await becomes(appliance, made.sandbox_id, PAUSED)
    assert (await appliance.master.connect_sandbox(made.sandbox_id, connect)).resumed
    await becomes(appliance, made.sandbox_id, RUNNING)


async def _resume(appliance: Appliance, sandbox_id: str) -> None:
    await appliance.master.resume_sandbox(sandbox_id, NewResume(timeout_s=60))


async def _connect(appliance: Appliance, sandbox_id: str) -> None:
    await appliance.master.connect_sandbox(sandbox_id, NewConnect(timeout_s=60))


async def _wake(appliance: Appliance, sandbox_id: str) -> None:
    await appliance.master.wake(sandbox_id)


@pytest.mark.parametrize(
    ("verb", "point", "state"),
    [
        (_resume, "resume:written", PAUSED),
        (_resume, "resume:carried-out", RUNNING),
        (_resume, "settle:written", RUNNING),
        (_connect, "resume:written", PAUSED),
        (_connect, "resume:carried-out", RUNNING),
        (_wake, "resume:written", PAUSED),
        (_wake, "settle:written", RUNNING),
    ],
)
async def test_a_resume_cut_short(
    verb: Callable[[Appliance, str], Awaitable[None]],
    point: str,
    state: SandboxState,
    appliance: Appliance,
    process: MasterProcess,
) -> None:
    made = await running(appliance, auto_resume=True)
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    await process.dies_at(point, verb(appliance, made.sandbox_id))
    await start_again(appliance, process, PATIENCE_IS_OVER)

    await becomes(appliance, made.sandbox_id, state)
    if state is RUNNING and verb is _resume:
        with pytest.raises(errors.Conflict, match="already running"):
            await verb(appliance, made.sandbox_id)
    else:
        await verb(appliance, made.sandbox_id)
    await becomes(appliance, made.sandbox_id, RUNNING)
    assert appliance.node.sandboxes[made.sandbox_id].state is NodeSandboxState.RUNNING
    assert len(appliance.node.resumes[made.sandbox_id]) == 1


def _no_build_is_half_made(appliance: Appliance) -> bool:
    """Whether each build is on the node exactly if it is on record, and ready there."""
    on_record = {str(row[0]) for row in rows(appliance, "SELECT build_id FROM replicas")}
    ready = {str(row[0]) for row in rows(appliance, "SELECT build_id FROM replicas WHERE state = 'ready'")}
    unfinished = rows(appliance, "SELECT build_id FROM builds WHERE status IN ('waiting', 'building')")
    return not unfinished and on_record == ready == set(appliance.node.builds)


async def _whole(appliance: Appliance, *, builds: int) -> None:
    """Wait until nothing is half-made and the node has so many builds."""

    async def whole() -> bool:
        return _no_build_is_half_made(appliance) and len(appliance.node.builds) == builds

    await come_true(appliance, whole)


@pytest.mark.parametrize(
    ("point", "again"),
    [
        ("capture:written", "at once"),
        ("capture:carried-out", "at once"),
        ("capture:carried-out", "later"),
        ("capture:kept", "at once"),
    ],
)
async def test_a_snapshot_cut_short(point: str, again: str, appliance: Appliance, process: MasterProcess) -> None:
    source = await running(appliance)
    wanted = NewSnapshot(team_id=source.team_id, name="warm")
    await process.dies_at(point, appliance.master.take_snapshot(source.sandbox_id, wanted))
    later = again == "later"
    await start_again(appliance, process, PATIENCE_IS_OVER, *(NO_CALL_IS_LEFT if later else ()))

    await becomes(appliance, source.sandbox_id, RUNNING)
    there = (await appliance.master.list_snapshots()).snapshots
    assert len(there) == (point == "capture:kept")
    if later:
        await _whole(appliance, builds=1 + len(there))
    taken = await appliance.master.take_snapshot(source.sandbox_id, wanted)
    assert (await appliance.sandbox(source.team_id, template="warm")).build_id == taken.build_id
    assert (await appliance.master.list_snapshots()).snapshots == (taken,)
    if not later:
        appliance.db.execute(*NO_CALL_IS_LEFT, database=DATABASE)
    await _whole(appliance, builds=2)
    assert await appliance.reserved() == (2, 1024)


async def test_the_name_of_a_snapshot_that_was_never_taken_is_free(
    appliance: Appliance, process: MasterProcess
) -> None:
    source = await running(appliance)
    wanted = NewSnapshot(team_id=source.team_id, name="warm")
    for _ in range(2):
        await process.dies_at("capture:written", appliance.master.take_snapshot(source.sandbox_id, wanted))
        await start_again(appliance, process, PATIENCE_IS_OVER)
        await becomes(appliance, source.sandbox_id, RUNNING)
    appliance.db.execute(*NO_CALL_IS_LEFT, database=DATABASE)
    await _whole(appliance, builds=1)
    assert await appliance.template("warm")


@pytest.mark.parametrize(
    "point",
    ["capture:carried-out", "fork:captured", "create:written", "create:carried-out", "fork:copied"],
)
async def test_a_fork_cut_short(point: str, appliance: Appliance, process: MasterProcess) -> None:
    source = await running(appliance)
    wanted = NewFork(team_id=source.team_id, timeout_s=60, count=2)
    await process.dies_at(point, appliance.master.fork_sandbox(source.sandbox_id, wanted))
    await start_again(appliance, process, PATIENCE_IS_OVER, *NO_CALL_IS_LEFT)

    async def at_rest() -> bool:
        listed = {one.sandbox_id for one in (await appliance.master.list_sandboxes()).sandboxes}
        unsettled = rows(appliance, "SELECT 1 FROM sandboxes WHERE state NOT IN ('running', 'ended')")
        return (
            not unsettled
            and source.sandbox_id in listed
            and listed == set(appliance.node.sandboxes) == set(routes(appliance))
            and await appliance.reserved() == (len(listed), 512 * len(listed))
        )

    await come_true(appliance, at_rest)
    if point == "fork:copied":
        assert len(appliance.node.sandboxes) == 3
    forked = await appliance.master.fork_sandbox(source.sandbox_id, wanted)
    assert [one.error for one in forked] == [None, None]
    # What copies were started from goes once they have ended.
    for copy in set(appliance.node.sandboxes) - {source.sandbox_id}:
        await appliance.master.kill_sandbox(copy)
    await _whole(appliance, builds=1)
    assert rows(appliance, "SELECT 1 FROM templates WHERE kind = 'fork' AND deleted_at IS NULL") == []
    await becomes(appliance, source.sandbox_id, RUNNING)


@pytest.mark.parametrize(
    "point", ["build:leased", "build:assigned", "build:handed-out", "build:decided", "build:published"]
)
async def test_a_build_cut_short(point: str, appliance: Appliance, process: MasterProcess) -> None:
    new = NewTemplate(image="oci:/images/base", alias="base", vcpus=1, memory_mib=512)
    process.arm(point)
    with suppress(errors.Unavailable):
        # The loop may get to that point before the answer is out.
        await appliance.master.create_template(new)
    await process.has_died()
    await start_again(appliance, process, LEASES_RAN_OUT)

    await _whole(appliance, builds=1)
    ((build_id,),) = rows(appliance, "SELECT build_id FROM builds")
    built = await appliance.master.get_build(str(build_id))
    assert built.status is BuildStatus.READY
    messages = [entry.message for entry in built.logs]
    assert messages == ["building on node cube-1", "the template is ready"]
    team_id = await appliance.team()
    assert (await appliance.sandbox(team_id)).build_id == build_id
    again = await appliance.master.create_template(new)
    assert again.template_id == built.template_id

    async def newest() -> bool:
        return (await appliance.master.get_build(again.build_id)).status is BuildStatus.READY

    await come_true(appliance, newest)


@pytest.mark.parametrize("point", ["delete:written", "delete:carried-out"])
async def test_the_deletion_of_a_template_cut_short(point: str, appliance: Appliance, process: MasterProcess) -> None:
    await appliance.template("base")
    process.arm(point)
    with suppress(errors.Unavailable):
        await appliance.master.delete_template("base")
    await process.has_died()
    await start_again(appliance, process)

    with pytest.raises(errors.TemplateNotFound):
        await appliance.master.delete_template("base")
    await _whole(appliance, builds=0)
    assert await appliance.template("base")


async def test_a_sandbox_whose_end_was_cut_short_leaves_no_route(appliance: Appliance, process: MasterProcess) -> None:
    made = await running(appliance)
    del appliance.node.sandboxes[made.sandbox_id]
    ended = EndedSandbox(sandbox_id=made.sandbox_id, reason=EndReason.TIMEOUT, ended_at=datetime.now(UTC))
    await process.dies_at("end:written", appliance.master.report_ended("cube-1", [ended]))
    await start_again(appliance, process)

    await becomes(appliance, made.sandbox_id, ENDED)
    # Its node got no answer.
    await appliance.master.report_ended("cube-1", [ended])
    assert (await appliance.master.get_sandbox(made.sandbox_id, ended=True)).end_reason is EndReason.TIMEOUT


async def test_network_rules_whose_update_was_cut_short_come_into_force(
    appliance: Appliance, process: MasterProcess
) -> None:
    made = await running(appliance)
    new = NewEgress(team_id=made.team_id, allow_internet=False, allow_out=("1.1.1.1",))
    await process.dies_at("egress:written", appliance.master.set_egress(made.sandbox_id, new))
    await start_again(appliance, process)

    async def in_force() -> bool:
        policy = appliance.node.policies.get(made.sandbox_id)
        return policy is not None and (policy.allow_internet, policy.allow_out) == (False, ("1.1.1.1",))

    await come_true(appliance, in_force)
    await appliance.master.set_egress(made.sandbox_id, new)


@pytest.mark.parametrize("change", ["update", "delete"])
async def test_a_change_of_a_secret_that_was_cut_short_reaches_those_who_use_it(
    change: str, appliance: Appliance, process: MasterProcess
) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    await appliance.master.secrets.create(NewSecret(team_id=team_id, name="one", value="old"))
    headers = Transform(headers={"X": "${e2b.secrets.one}"})
    made = await appliance.sandbox(team_id, rules={"a.com": (headers,)})
    call = (
        appliance.master.secrets.update("one", SecretUpdate(team_id=team_id, value="new"))
        if change == "update"
        else appliance.master.secrets.delete("one", team_id=team_id)
    )
    await process.dies_at("secret:written", call)
    await start_again(appliance, process)

    async def in_force() -> bool:
        policy = appliance.node.policies.get(made.sandbox_id)
        if policy is None:
            return False
        (rule,) = policy.header_rules
        return rule.headers == {"X": "new"} if change == "update" else bool(rule.refusal) and not rule.headers

    await come_true(appliance, in_force)


async def test_a_renewal_of_tokens_that_was_cut_short_reaches_their_nodes(
    appliance: Appliance, process: MasterProcess
) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(
        team_id,
        rules={"a.com": (Transform(headers={"X": "${e2b.identity.tokens.aws}"}),)},
        workload_tokens={"aws": WorkloadToken(audience="sts", token_type="JWT-SVID")},
    )
    first = appliance.node.requests[made.sandbox_id].network.header_rules
    process.arm("tokens:written")
    appliance.db.execute("UPDATE sandboxes SET tokens_due_at = tokens_due_at - INTERVAL 1 HOUR", database=DATABASE)
    await process.has_died()
    await start_again(appliance, process)

    async def renewed() -> bool:
        policy = appliance.node.policies.get(made.sandbox_id)
        return policy is not None and policy.header_rules != first

    await come_true(appliance, renewed)
