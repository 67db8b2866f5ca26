"""Rollback: the same sandbox as it was at a snapshot; whatever fails or is cut short, it is one of the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from appliance.clients.node import NodeClient
from appliance.common import failpoints
from appliance.contracts.node import NodeSandbox, NodeSandboxState, OnTimeout, Pause, Rollback, Snapshot
from appliance.contracts.node_network import NetworkPolicy
from appliance.domain.errors import BuildNotFound, Conflict, CubeError, SandboxNotFound
from appliance.domain.ids import SandboxId
from appliance.hypervisor.base import VmState
from tests.integration.cubelet.conftest import FakeMachineRoom, built, created, until
from tests.integration.cubelet.test_logs import collected, logs, said
from tests.integration.cubelet.test_pausing import again
from tests.integration.cubelet.test_snapshots import ram_of, set_ram
from tests.support.waiting import eventually

BACK = Rollback(build_id="the-snapshot", access_token="secret")


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


async def snapshotted(node: FakeMachineRoom, cubelet: NodeClient, *, memory: bool = True) -> SandboxId:
    """Return a sandbox that has a snapshot and went on since."""
    build_id = await built(cubelet, start_cmd="serve")
    sandbox_id = await created(cubelet, build_id, access_token="secret", env_vars={"A": "1"})
    set_ram(node, sandbox_id, "at the snapshot")
    await take(cubelet, sandbox_id, "the-snapshot", memory=memory)
    set_ram(node, sandbox_id, "later")
    return sandbox_id


async def take(cubelet: NodeClient, sandbox_id: str, build_id: str, *, memory: bool = True) -> None:
    await cubelet.snapshot_sandbox(sandbox_id, Snapshot(template_id="snap", build_id=build_id, memory=memory))


def sizes(node: FakeMachineRoom) -> tuple[int, ...]:
    now = node.ledger()
    return tuple(len(part) for part in (now.records, now.runtime_dirs, now.processes, now.admitted))


async def test_the_same_sandbox_is_what_it_was(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await snapshotted(node, cubelet)
    before, vm_before = await cubelet.get_sandbox(sandbox_id), node.record_of(sandbox_id).vm_id

    back = await cubelet.roll_back_sandbox(
        sandbox_id, BACK.model_copy(update={"network": NetworkPolicy(allow_internet=False)})
    )

    assert back == await cubelet.get_sandbox(sandbox_id)
    assert (back.state, back.generation) == (NodeSandboxState.RUNNING, before.generation + 1)
    assert (back.started_at, back.end_at) == (before.started_at, before.end_at)
    assert ram_of(node, sandbox_id) == "at the snapshot"
    assert sizes(node) == (1, 1, 1, 1)
    assert node.record_of(sandbox_id).vm_id != vm_before
    identity = node.guests.identities_of(sandbox_id)[-1]
    assert (identity["accessToken"], identity["inheritEnv"], identity["envVars"]) == ("secret", True, {})
    assert identity["hostname"] == sandbox_id
    assert identity.get("machineId") is None, "it keeps the one it has"
    record = node.record_of(sandbox_id)
    assert record.tap is not None
    admission = node.switch.admission(record.tap)
    assert admission is not None
    assert not admission.policy.allow_internet


async def test_it_goes_on_as_any_other_without_the_snapshot(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await snapshotted(node, cubelet)
    await take(cubelet, sandbox_id, "a-later-one")
    for generation in (1, 2):
        assert (await cubelet.roll_back_sandbox(sandbox_id, BACK)).generation == generation
        assert ram_of(node, sandbox_id) == "at the snapshot"
        set_ram(node, sandbox_id, "gone on")
    await take(cubelet, sandbox_id, "after-a-rollback")
    await cubelet.delete_build("snap", "the-snapshot")
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again())
    assert ram_of(node, sandbox_id) == "gone on"
    assert (await cubelet.roll_back_sandbox(sandbox_id, Rollback(build_id="a-later-one"))).generation == 5
    assert ram_of(node, sandbox_id) == "later"
    await cubelet.delete_sandbox(sandbox_id)
    assert sizes(node) == (0, 0, 0, 0)
    child = await created(cubelet, "after-a-rollback")
    assert ram_of(node, child) == "gone on"


async def test_to_a_disk_alone_it_boots(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await snapshotted(node, cubelet, memory=False)
    starts = len(node.guests.commands)
    await cubelet.roll_back_sandbox(sandbox_id, BACK)
    assert ram_of(node, sandbox_id) == ""
    assert node.guests.commands[starts:] == ["/bin/bash -l -c serve"]
    assert node.guests.identities_of(sandbox_id)[-1]["envVars"] == {"PATH": "/bin", "LANG": "C.UTF-8", "A": "1"}
    set_ram(node, sandbox_id, "after the boot")
    await cubelet.delete_build("snap", "the-snapshot")
    await cubelet.pause_sandbox(sandbox_id, Pause())
    await cubelet.resume_sandbox(sandbox_id, again())
    assert ram_of(node, sandbox_id) == "after the boot"


async def test_only_what_runs_is_rolled_back_and_only_to_what_is_there(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await snapshotted(node, cubelet)
    with pytest.raises(SandboxNotFound):
        await cubelet.roll_back_sandbox("iunknown", BACK)
    with pytest.raises(BuildNotFound):
        await cubelet.roll_back_sandbox(sandbox_id, Rollback(build_id="unknown"))
    await cubelet.pause_sandbox(sandbox_id, Pause())
    with pytest.raises(Conflict, match="is paused"):
        await cubelet.roll_back_sandbox(sandbox_id, BACK)


def _disk(node: FakeMachineRoom) -> None:
    node.disks.full = True


def _clone(node: FakeMachineRoom) -> None:
    node.host.fail_next("clone")


def _resume(node: FakeMachineRoom) -> None:
    node.host.fail_next("resume")


def _guest(node: FakeMachineRoom) -> None:
    node.guests.refuse_owners = True


def _at(point: str) -> Callable[[FakeMachineRoom], None]:
    def arm(node: FakeMachineRoom) -> None:
        file = node.directory / "failpoint"
        file.write_text(f"{point} raise")
        failpoints.arm(file)

    return arm


@pytest.mark.parametrize(
    "fault",
    [_disk, _clone, _resume, _guest, _at("rollback:restored"), _at("rollback:ready")],
    ids=lambda one: one.__name__,
)
@pytest.mark.parametrize("memory", [True, False])
async def test_a_rollback_that_fails_leaves_the_sandbox_as_it_was(
    memory: bool, fault: Callable[[FakeMachineRoom], None], node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await snapshotted(node, cubelet, memory=memory)
    before, shown = await node.rest(), await cubelet.get_sandbox(sandbox_id)
    fault(node)
    with pytest.raises(CubeError):
        await cubelet.roll_back_sandbox(sandbox_id, BACK)
    assert node.ledger() == before
    assert await cubelet.get_sandbox(sandbox_id) == shown
    assert ram_of(node, sandbox_id) == "later"
    assert {machine.state for machine in node.host.machines.values()} == {VmState.RUNNING}
    node.disks.full = node.guests.refuse_owners = False
    await cubelet.roll_back_sandbox(sandbox_id, BACK)
    assert ram_of(node, sandbox_id) == ("at the snapshot" if memory else "")


async def held(node: FakeMachineRoom, cubelet: NodeClient, sandbox_id: str) -> asyncio.Task[NodeSandbox]:
    """Return a rollback whose guest does not acknowledge it before `held_owners` is set."""
    node.guests.held_owners = asyncio.Event()
    rollback = asyncio.create_task(cubelet.roll_back_sandbox(sandbox_id, BACK))
    await eventually(lambda: node.guests.waiting_owners > 0)
    return rollback


@pytest.fixture
async def patient(node: FakeMachineRoom) -> FakeMachineRoom:
    node.reconfigured(deadlines=node.settings.deadlines.model_copy(update={"init_s": 30}))
    return node


async def test_what_is_asked_meanwhile_holds_for_the_new_machine(patient: FakeMachineRoom) -> None:
    node = patient
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        rollback = await held(node, cubelet, sandbox_id)
        end_at = datetime.now(UTC) + timedelta(hours=7)
        await cubelet.set_deadline(sandbox_id, end_at)
        network = asyncio.create_task(cubelet.set_network(sandbox_id, NetworkPolicy(deny_out=("8.8.8.8",))))
        assert ram_of(node, sandbox_id) == "later", "until then it is as it was"
        assert (await cubelet.get_sandbox(sandbox_id)).changing
        assert node.guests.held_owners is not None
        node.guests.held_owners.set()
        assert (await rollback).end_at == end_at
        await network
        assert not (await cubelet.get_sandbox(sandbox_id)).changing
        record = node.record_of(sandbox_id)
        assert record.sandbox is not None
        assert record.sandbox.end_at == end_at
        assert record.tap is not None
        admission = node.switch.admission(record.tap)
        assert admission is not None
        assert len(admission.policy.deny) == 1


async def test_killed_meanwhile_nothing_is_left(patient: FakeMachineRoom) -> None:
    node = patient
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        rollback = await held(node, cubelet, sandbox_id)
        kill = asyncio.create_task(cubelet.delete_sandbox(sandbox_id))
        assert node.guests.held_owners is not None
        node.guests.held_owners.set()
        await asyncio.gather(rollback, kill)
        assert sizes(node) == (0, 0, 0, 0)


async def test_its_time_ends_meanwhile_and_afterwards_it_ends(patient: FakeMachineRoom) -> None:
    node = patient
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        rollback = await held(node, cubelet, sandbox_id)
        await cubelet.set_deadline(sandbox_id, datetime.now(UTC))
        assert node.guests.held_owners is not None
        node.guests.held_owners.set()
        await rollback
        await eventually(lambda: node.desk.reason_of(sandbox_id) == "timeout")
        assert sizes(node) == (0, 0, 0, 0)


async def test_a_machine_that_dies_meanwhile_is_missed_by_nobody(patient: FakeMachineRoom) -> None:
    node = patient
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        rollback = await held(node, cubelet, sandbox_id)
        process = node.record_of(sandbox_id).process
        assert process is not None
        node.host.crash(process)
        assert node.guests.held_owners is not None
        node.guests.held_owners.set()
        await rollback
        await take(cubelet, sandbox_id, "afterwards")
        assert ram_of(node, sandbox_id) == "at the snapshot"
        assert node.desk.ended == []
        # And the new one is watched.
        process = node.record_of(sandbox_id).process
        assert process is not None
        node.host.crash(process)
        await eventually(lambda: node.desk.reason_of(sandbox_id) == "vmm_died")


@pytest.mark.parametrize("point", ["rollback:recorded", "rollback:disowned", "rollback:freed"])
async def test_a_machine_that_could_not_be_freed_never_becomes_the_sandbox_again(
    point: str, node: FakeMachineRoom
) -> None:
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        _at(point)(node)
        await cubelet.roll_back_sandbox(sandbox_id, BACK)
        assert len(node.host.machines) == (1 if point == "rollback:freed" else 2)
    async with node.cubelet() as cubelet:
        assert ram_of(node, sandbox_id) == "at the snapshot"
        assert sizes(node) == (1, 1, 1, 1)
        assert [one.generation for one in await cubelet.list_sandboxes()] == [1]
        assert node.desk.ended == []


async def test_freed_or_not_it_ends_with_its_newest_machine(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        _at("rollback:disowned")(node)
        await cubelet.roll_back_sandbox(sandbox_id, BACK)
        await cubelet.delete_sandbox(sandbox_id)
    async with node.cubelet() as cubelet:
        assert await cubelet.list_sandboxes() == []
        assert sizes(node) == (0, 0, 0, 0)
        assert node.desk.ended == []


async def test_at_its_timeout_it_is_paused_as_before(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    sandbox_id = await created(cubelet, build_id, on_timeout=OnTimeout.PAUSE)
    await take(cubelet, sandbox_id, "the-snapshot")
    await cubelet.roll_back_sandbox(sandbox_id, Rollback(build_id="the-snapshot"))
    await cubelet.set_deadline(sandbox_id, datetime.now(UTC))
    await until(lambda: _is_paused(cubelet, sandbox_id))
    assert (await cubelet.get_sandbox(sandbox_id)).generation == 2


async def _is_paused(cubelet: NodeClient, sandbox_id: str) -> bool:
    return (await cubelet.get_sandbox(sandbox_id)).state is NodeSandboxState.PAUSED


async def test_its_log_goes_on_though_the_guests_begins_again(node: FakeMachineRoom) -> None:
    node.reconfigured(sample_interval_s=60)
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        at_snapshot = [said("before")]
        node.guests.log += [*at_snapshot, said("undone 1"), said("undone 2")]
        node.guests.log_at_owner = at_snapshot
        await cubelet.roll_back_sandbox(sandbox_id, BACK)
        node.guests.log += [said(f"after {number}") for number in range(3)]
    async with node.cubelet() as cubelet:
        await cubelet.set_access_token(sandbox_id, "secret")
        await cubelet.delete_sandbox(sandbox_id)
        await collected(cubelet, sandbox_id, "after 2")
        messages = [entry.message for entry in await logs(cubelet, sandbox_id)]
    told = ["before", "undone 1", "undone 2", "the sandbox was rolled back", "after 0", "after 1", "after 2"]
    assert messages == told


async def test_a_log_that_says_nothing_delays_no_rollback_for_long(node: FakeMachineRoom) -> None:
    node.reconfigured(sample_interval_s=60)
    node.guests.stall_log = True
    async with node.cubelet() as cubelet:
        sandbox_id = await snapshotted(node, cubelet)
        await cubelet.roll_back_sandbox(sandbox_id, BACK)
        assert [entry.message for entry in await logs(cubelet, sandbox_id)] == ["the sandbox was rolled back"]
