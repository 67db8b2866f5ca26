"""Everything that changes a sandbox at once, by callers, by traffic and by its node: nothing sticks, nothing is counted
twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from appliance.contracts.master import (
    NewConnect,
    NewFork,
    NewPause,
    NewResume,
    NewRollback,
    NewSnapshot,
    NewTimeout,
    SandboxState,
)
from appliance.contracts.node import EndedSandbox, EndReason, NodeSandboxState
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually

_STATES = {NodeSandboxState.RUNNING: "running", NodeSandboxState.PAUSED: "paused"}


class _Storm:
    """Picks what happens next. Each of these may be refused, but never as a fault of ours."""

    def __init__(self, appliance: Appliance, seed: int) -> None:
        self._appliance = appliance
        self._random = random.Random(seed)

    def calls(self, sandbox_ids: list[str], count: int) -> list[Awaitable[None]]:
        master = self._appliance.master
        steps: list[Callable[[str], Awaitable[object]]] = [
            lambda one: master.pause_sandbox(one, NewPause()),
            lambda one: master.pause_sandbox(one, NewPause(memory=False)),
            lambda one: master.connect_sandbox(one, NewConnect(timeout_s=600)),
            lambda one: master.resume_sandbox(one, NewResume(timeout_s=600)),
            master.wake,
            lambda one: master.set_timeout(one, NewTimeout(timeout_s=300)),
            lambda one: master.take_snapshot(one, NewSnapshot()),
            self._roll_back,
            self._time_out,
            self._late_heartbeat,
        ]
        rare: list[Callable[[str], Awaitable[object]]] = [
            master.kill_sandbox,
            self._died,
            lambda one: master.fork_sandbox(one, NewFork(timeout_s=600)),
        ]
        chosen = [
            self._random.choice(rare if self._random.random() < 0.06 else steps)(self._random.choice(sandbox_ids))
            for _ in range(count)
        ]
        return [self._try(call) for call in chosen]

    async def _try(self, call: Awaitable[object]) -> None:
        try:
            await call
        except (errors.Conflict, errors.NotFound, errors.Forbidden, errors.NoCapacity, errors.QuotaExceeded):
            return

    async def _roll_back(self, sandbox_id: str) -> None:
        page = await self._appliance.master.list_snapshots(sandbox_id=sandbox_id, limit=1)
        for newest in page.snapshots:
            await self._appliance.master.roll_back_sandbox(sandbox_id, NewRollback(snapshot=newest.snapshot_id))

    async def _time_out(self, sandbox_id: str) -> None:
        async with self._appliance.node.locks[sandbox_id]:
            if sandbox_id in self._appliance.node.sandboxes:
                self._appliance.node.pause(sandbox_id)
        await self._appliance.beat()

    async def _late_heartbeat(self, _: str) -> None:
        said = self._appliance.node.status()
        await asyncio.sleep(0.05)
        await self._appliance.master.heartbeat(said)

    async def _died(self, sandbox_id: str) -> None:
        async with self._appliance.node.locks[sandbox_id]:
            known = self._appliance.node.sandboxes.pop(sandbox_id, None)
        if known is not None:
            died = EndedSandbox(sandbox_id=sandbox_id, reason=EndReason.VMM_DIED, ended_at=datetime.now(UTC))
            await self._appliance.master.report_ended("cube-1", [died])


@pytest.mark.parametrize("seed", range(4))
async def test_no_sandbox_sticks_and_the_sums_are_exact(appliance: Appliance, seed: int) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    # Too small for all at once, so that resumes are refused too.
    appliance.node.vcpus = 5
    await appliance.beat()
    made = [
        (await appliance.sandbox(team_id, auto_resume=bool(number % 2), on_timeout="pause")).sandbox_id
        for number in range(4)
    ]
    storm = _Storm(appliance, seed)

    for _ in range(6):
        async with asyncio.timeout(60):
            await asyncio.gather(*storm.calls(made, 25))

    async def quiet() -> bool:
        await appliance.beat()
        rows = appliance.db.execute("SELECT state FROM sandboxes", database="cube_master")
        return {str(row[0]) for row in rows} <= {"running", "paused", "ended"} and await _agree(appliance)

    await eventually(quiet, within_s=30)
    rows = appliance.db.execute("SELECT sandbox_id FROM sandboxes WHERE state = 'running'", database="cube_master")
    running = {str(row[0]) for row in rows}
    assert await appliance.reserved() == (len(running), 512 * len(running))
    with appliance.redis.client() as redis:
        assert {str(key).removeprefix("cube:route:") for key in redis.keys("cube:route:*")} == running

    for sandbox in (await appliance.master.list_sandboxes(limit=1000)).sandboxes:
        async with asyncio.timeout(10):
            await appliance.master.kill_sandbox(sandbox.sandbox_id)
    assert await appliance.reserved() == (0, 0)
    assert appliance.node.sandboxes == {}


@pytest.mark.parametrize(
    "state", ["creating", "running", "pausing", "paused", "resuming", "snapshotting", "rolling_back", "killing"]
)
async def test_every_state_can_be_deleted(appliance: Appliance, state: str) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)
    if state == "paused":
        await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    else:
        machines = 2 if state == "rolling_back" else 1
        appliance.db.execute(
            f"UPDATE nodes SET vcpus_reserved = {machines}, memory_reserved_mib = {512 * machines}",
            f"UPDATE sandboxes SET state = '{state}', changing_since = UTC_TIMESTAMP(6)",
            database="cube_master",
        )

    await appliance.master.kill_sandbox(made.sandbox_id)

    ended = await appliance.master.get_sandbox(made.sandbox_id, ended=True)
    assert (ended.state, ended.end_reason) == (SandboxState.ENDED, EndReason.KILLED)
    assert await appliance.reserved() == (0, 0)
    assert appliance.node.sandboxes == {}


async def _agree(appliance: Appliance) -> bool:
    rows = appliance.db.execute(
        "SELECT sandbox_id, state FROM sandboxes WHERE state != 'ended'", database="cube_master"
    )
    here = {str(sandbox_id): str(state) for sandbox_id, state in rows}
    return here == {one: _STATES[said.state] for one, said in appliance.node.sandboxes.items()}
