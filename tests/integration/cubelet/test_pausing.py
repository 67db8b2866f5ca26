"""Pause and resume: files instead of a VM, and the same sandbox again; whatever fails, it is one of the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.clients.node import NodeClient
from appliance.common import failpoints
from appliance.contracts.node import NodeSandboxState, OnTimeout, Pause, Resume
from appliance.contracts.node_network import NetworkPolicy
from appliance.cubelet.runtime import Stage
from appliance.cubelet.services import resuming
from appliance.domain.errors import (
    Conflict,
    CubeError,
    GuestUnresponsive,
    InvalidRequest,
    NodeFailure,
    SandboxNotFound,
    VmmFailure,
)
from appliance.domain.ids import SandboxId
from tests.integration.cubelet.conftest import TEMPLATE, FakeMachineRoom, Ledger, built, created, until
from tests.support.waiting import eventually

FULL, DISK = Pause(), Pause(memory=False)


def again(**changes: Any) -> Resume:
    return Resume.model_validate({"end_at": datetime.now(UTC) + timedelta(minutes=5), **changes})


def files(node: FakeMachineRoom, sandbox_id: str) -> set[str]:
    directory = node.records.directory(node.record_of(sandbox_id).vm_id)
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def costs_nothing(ledger: Ledger) -> None:
    assert (ledger.processes, ledger.runtime_dirs, ledger.admitted) == (frozenset(), frozenset(), frozenset())


async def test_a_paused_sandbox_is_files_alone(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(sandbox_id, FULL)
    costs_nothing(node.ledger())
    shown = await cubelet.get_sandbox(sandbox_id)
    assert (shown.state, shown.generation, shown.address) == (NodeSandboxState.PAUSED, 1, None)
    assert shown.paused_at is not None
    assert not shown.filesystem_only
    assert files(node, sandbox_id) == {
        "record.json",
        "saved/saved.json",
        "saved/upper.img",
        "saved/vm/device-state",
        "saved/vm/changed-pages",
    }
    assert len(await node.switch.taps()) <= 3


async def test_pausing_the_paused_and_resuming_the_running_is_success(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    assert (await cubelet.resume_sandbox(sandbox_id, again())).generation == 0
    await asyncio.gather(*(cubelet.pause_sandbox(sandbox_id, FULL) for _ in range(3)))
    assert (await cubelet.get_sandbox(sandbox_id)).generation == 1
    answers = await asyncio.gather(*(cubelet.resume_sandbox(sandbox_id, again()) for _ in range(3)))
    assert {answer.generation for answer in answers} == {2}
    assert len(node.host.machines) == 1


async def test_a_resumed_sandbox_has_its_ram_and_is_told_who_it_is(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    sandbox_id = await created(cubelet, build_id, access_token="secret", env_vars={"A": "1"})
    (machine,) = node.host.machines.values()
    machine.ram = "nonce"
    await cubelet.pause_sandbox(sandbox_id, FULL)
    resumed = await cubelet.resume_sandbox(sandbox_id, again(access_token="secret"))
    assert (resumed.state, resumed.generation, resumed.paused_at) == (NodeSandboxState.RUNNING, 2, None)
    (machine,) = node.host.machines.values()
    assert machine.ram == "nonce"
    first, second = node.guests.identities_of(sandbox_id)
    assert (second["accessToken"], second["inheritEnv"], second["machineId"]) == ("secret", True, None)
    assert second["entropy"] != first["entropy"]
    assert files(node, sandbox_id) == {"record.json", "upper.img"}
    assert node.ledger().admitted == {sandbox_id}


async def test_many_pauses_build_no_chain_and_need_no_more_room(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    for _ in range(5):
        await cubelet.pause_sandbox(sandbox_id, FULL)
        paused = files(node, sandbox_id)
        assert len(paused) == 5
        await cubelet.resume_sandbox(sandbox_id, again())
    assert (await cubelet.get_sandbox(sandbox_id)).generation == 10


async def test_of_a_disk_alone_it_boots_with_its_variables(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet, start_cmd="serve")
    sandbox_id = await created(cubelet, build_id, access_token="secret", env_vars={"A": "1"})
    await cubelet.pause_sandbox(sandbox_id, DISK)
    assert node.guests.flushed[1:] == [sandbox_id], "the first was the build"
    assert (await cubelet.get_sandbox(sandbox_id)).filesystem_only
    assert files(node, sandbox_id) == {"record.json", "saved/saved.json", "saved/upper.img"}
    mode = (node.records.saved(node.record_of(sandbox_id).vm_id) / "saved.json").stat().st_mode
    assert mode & 0o777 == 0o600

    starts = node.guests.commands.count("/bin/bash -l -c serve")
    resumed = await cubelet.resume_sandbox(sandbox_id, again(access_token="secret"))
    assert not resumed.filesystem_only
    assert node.guests.identities_of(sandbox_id)[-1]["envVars"] == {"PATH": "/bin", "LANG": "C.UTF-8", "A": "1"}
    assert node.guests.commands.count("/bin/bash -l -c serve") == starts + 1
    (machine,) = node.host.machines.values()
    machine.ram = "after the boot"
    # Its RAM is its own now; it can be paused with it, and come back with it.
    await cubelet.pause_sandbox(sandbox_id, FULL)
    await cubelet.resume_sandbox(sandbox_id, again())
    (machine,) = node.host.machines.values()
    assert machine.ram == "after the boot"
    await cubelet.pause_sandbox(sandbox_id, FULL)
    node.guests.flushed.clear()
    await cubelet.resume_sandbox(sandbox_id, again(memory=False))
    (machine,) = node.host.machines.values()
    assert machine.ram == ""
    assert node.guests.flushed == [sandbox_id], "its files are on its disk first"
    await cubelet.delete_sandbox(sandbox_id)
    assert node.ledger().records == frozenset()


async def test_a_wedged_guest_is_not_paused_where_a_healthy_one_is_wanted(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    node.guests.port_status = 500
    node.guests.refuse_flush = True
    before = node.ledger()
    for pause in (Pause(require_healthy_guest=True), DISK):
        with pytest.raises(GuestUnresponsive):
            await cubelet.pause_sandbox(sandbox_id, pause)
    assert node.ledger() == before
    await cubelet.pause_sandbox(sandbox_id, FULL)


async def test_what_is_unknown_or_paused_is_said_so(cubelet: NodeClient) -> None:
    with pytest.raises(SandboxNotFound):
        await cubelet.pause_sandbox(SandboxId("i" * 21), FULL)
    with pytest.raises(SandboxNotFound):
        await cubelet.resume_sandbox(SandboxId("i" * 21), again())
    sandbox_id = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(sandbox_id, FULL)
    with pytest.raises(Conflict, match="is paused"):
        await cubelet.set_deadline(sandbox_id, datetime.now(UTC))
    with pytest.raises(Conflict, match="is paused"):
        await cubelet.set_network(sandbox_id, NetworkPolicy())


async def test_a_paused_sandbox_is_killed_like_another(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    sandbox_id = await created(cubelet, build_id)
    await cubelet.pause_sandbox(sandbox_id, FULL)
    with pytest.raises(Conflict):
        await cubelet.delete_build(TEMPLATE, build_id)
    await cubelet.delete_sandbox(sandbox_id)
    assert node.ledger() == before
    await cubelet.delete_build(TEMPLATE, build_id)


async def test_it_outlives_restarts_and_reboots_of_the_node(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        sandbox_id = await created(cubelet, await built(cubelet), lives=timedelta(seconds=1))
        await cubelet.pause_sandbox(sandbox_id, FULL)
    record = node.record_of(sandbox_id)
    node.records.save(record.model_copy(update={"boot_id": "an earlier boot"}))
    async with node.cubelet() as cubelet:
        await asyncio.sleep(1.2)
        assert (await cubelet.get_sandbox(sandbox_id)).state is NodeSandboxState.PAUSED
        costs_nothing(node.ledger())
        await cubelet.resume_sandbox(sandbox_id, again())
    async with node.cubelet() as cubelet:
        assert (await cubelet.get_sandbox(sandbox_id)).state is NodeSandboxState.RUNNING


async def test_a_paused_sandbox_that_cannot_be_read_keeps_no_node_from_starting(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        sandbox_id = await created(cubelet, await built(cubelet))
        await cubelet.pause_sandbox(sandbox_id, FULL)
    (node.records.saved(node.record_of(sandbox_id).vm_id) / "saved.json").write_text("{")
    async with node.cubelet() as cubelet:
        assert (await cubelet.get_sandbox(sandbox_id)).state is NodeSandboxState.PAUSED
        await cubelet.delete_sandbox(sandbox_id)
        assert node.ledger().records == frozenset()


Fault = Callable[[FakeMachineRoom], None]


def _no_save(node: FakeMachineRoom) -> None:
    node.host.fail_next("save")


def _at(point: str) -> Fault:
    def arm(node: FakeMachineRoom) -> None:
        file = node.directory / "failpoint"
        file.write_text(f"{point} raise")
        failpoints.arm(file)

    return arm


def _no_clone(node: FakeMachineRoom) -> None:
    node.host.fail_next("clone")


def _no_room(node: FakeMachineRoom) -> None:
    node.disks.full = True


def _no_init(node: FakeMachineRoom) -> None:
    node.guests.refuse_owners = True


def _mend(node: FakeMachineRoom) -> None:
    node.disks.full = node.guests.refuse_owners = False
    failpoints.arm(None)


@pytest.mark.parametrize("fault", [_no_save, _at("pause:intended"), _at("pause:memory"), _at("pause:disk")])
async def test_a_pause_that_fails_leaves_the_sandbox_running(
    fault: Fault, node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    before, there = node.ledger(), files(node, sandbox_id)
    fault(node)
    with pytest.raises(NodeFailure):
        await cubelet.pause_sandbox(sandbox_id, FULL)
    _mend(node)
    shown = await cubelet.get_sandbox(sandbox_id)
    assert (shown.state, shown.generation) == (NodeSandboxState.RUNNING, 0)
    assert (node.ledger(), files(node, sandbox_id)) == (before, there)
    assert [machine.state for machine in node.host.machines.values()] == ["running"]
    await cubelet.pause_sandbox(sandbox_id, FULL)


async def test_a_pause_that_fails_once_it_is_saved_is_finished_by_the_next(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    _at("pause:saved")(node)
    with pytest.raises(NodeFailure):
        await cubelet.pause_sandbox(sandbox_id, FULL)
    _mend(node)
    await cubelet.pause_sandbox(sandbox_id, FULL)
    costs_nothing(node.ledger())
    assert (await cubelet.get_sandbox(sandbox_id)).generation == 1
    await cubelet.resume_sandbox(sandbox_id, again())


async def test_a_vmm_that_dies_while_it_is_saved_has_ended(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    sandbox_id = await created(cubelet, build_id)
    process = node.record_of(sandbox_id).process
    assert process is not None
    node.host.latency = timedelta(milliseconds=200)
    node.host.fail_next("save")
    pausing = asyncio.create_task(cubelet.pause_sandbox(sandbox_id, FULL))
    await eventually(lambda: node.record_of(sandbox_id).stage is Stage.PAUSING)
    node.host.crash(process)
    with pytest.raises(CubeError):
        await pausing
    await eventually(lambda: node.desk.reason_of(sandbox_id) == "vmm_died")
    await eventually(lambda: node.ledger() == before)


@pytest.mark.parametrize("pause", [FULL, DISK])
@pytest.mark.parametrize(
    "fault",
    [
        _no_clone,
        _no_room,
        _no_init,
        _at("resume:intended"),
        _at("resume:disk"),
        _at("resume:restored"),
        _at("resume:ready"),
    ],
)
async def test_a_resume_that_fails_leaves_the_sandbox_paused(
    fault: Fault, pause: Pause, node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(sandbox_id, pause)
    before, there = node.ledger(), files(node, sandbox_id)
    fault(node)
    with pytest.raises(NodeFailure):
        await cubelet.resume_sandbox(sandbox_id, again())
    _mend(node)
    shown = await cubelet.get_sandbox(sandbox_id)
    assert (shown.state, shown.generation) == (NodeSandboxState.PAUSED, 1)
    assert (node.ledger(), files(node, sandbox_id)) == (before, there)
    await cubelet.resume_sandbox(sandbox_id, again())


async def test_at_its_end_time_a_sandbox_may_be_paused_and_cubemaster_hears_at_once(node: FakeMachineRoom) -> None:
    node.reconfigured(heartbeat_s=60)
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        lives = timedelta(milliseconds=300)
        full = await created(cubelet, build_id, lives=lives, on_timeout=OnTimeout.PAUSE)
        disk = await created(cubelet, build_id, lives=lives, on_timeout=OnTimeout.PAUSE_FILESYSTEM)

        def told() -> bool:
            known = {one.sandbox_id: one for one in node.desk.beats[-1].sandboxes}
            return all(known.get(one) and known[one].state is NodeSandboxState.PAUSED for one in (full, disk))

        await eventually(told)
        known = {one.sandbox_id: one.filesystem_only for one in node.desk.beats[-1].sandboxes}
        assert known == {full: False, disk: True}
        # It runs again for as long as it is told, and is then killed, as it is told, too.
        await cubelet.resume_sandbox(full, again(end_at=datetime.now(UTC) + lives))
        await eventually(lambda: node.desk.reason_of(full) == "timeout")


async def test_a_time_that_was_moved_meanwhile_counts(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    lives = timedelta(milliseconds=300)
    sandbox_id = await created(cubelet, build_id, lives=lives, on_timeout=OnTimeout.PAUSE)
    await cubelet.set_deadline(sandbox_id, datetime.now(UTC) + timedelta(minutes=1))
    await asyncio.sleep(0.5)
    assert (await cubelet.get_sandbox(sandbox_id)).state is NodeSandboxState.RUNNING
    await cubelet.set_deadline(sandbox_id, datetime.now(UTC))
    await eventually(lambda: node.record_of(sandbox_id).stage is Stage.PAUSED)


@pytest.mark.parametrize("failures", [2, 3])
async def test_a_pause_at_the_end_is_tried_some_times(failures: int, node: FakeMachineRoom) -> None:
    node.reconfigured(pause_retry_s=0.05)
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        before = await node.rest()
        sandbox_id = await created(cubelet, build_id, lives=timedelta(milliseconds=300), on_timeout=OnTimeout.PAUSE)
        node.host.fail_next("save", failures)
        if failures < 3:
            await eventually(lambda: node.record_of(sandbox_id).stage is Stage.PAUSED)
        else:
            await eventually(lambda: node.desk.reason_of(sandbox_id) == "timeout")
            assert "could not be paused: save was made to fail" in node.desk.ended[0].detail
            await eventually(lambda: node.ledger() == before)


async def test_the_network_of_a_running_sandbox_is_replaced(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    tap = node.record_of(sandbox_id).tap
    assert tap is not None
    await cubelet.set_network(sandbox_id, NetworkPolicy(allow_internet=False, allow_out=("1.1.1.1",)))
    admission = node.switch.admission(tap)
    assert admission is not None
    assert not admission.policy.allow_internet
    assert [str(network) for network in admission.policy.allow] == ["1.1.1.1/32"]

    by_domain = NetworkPolicy(deny_out=("0.0.0.0/0",), allow_domains=("Example.com", "*.example.com"))
    await cubelet.set_network(sandbox_id, by_domain)
    admission = node.switch.admission(tap)
    assert admission is not None
    assert admission.policy.allow_domains == ("example.com", "*.example.com")
    with pytest.raises(InvalidRequest, match="invalid allowed address a b"):
        await cubelet.set_network(sandbox_id, NetworkPolicy(allow_domains=("a b",)))


async def test_a_sandbox_wakes_up_under_rules_by_domain(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(sandbox_id, FULL)
    by_domain = NetworkPolicy(deny_out=("0.0.0.0/0",), allow_domains=("example.com",))
    await cubelet.resume_sandbox(sandbox_id, again(network=by_domain))
    tap = node.record_of(sandbox_id).tap
    assert tap is not None
    admission = node.switch.admission(tap)
    assert admission is not None
    assert admission.policy.allow_domains == ("example.com",)


async def test_rules_are_reported_by_the_name_that_their_author_gave_them(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet), network=NetworkPolicy(revision="first"))

    async def reported() -> str:
        (listed,) = (await cubelet.status()).sandboxes
        return listed.network_revision

    assert await reported() == "first"
    await cubelet.set_network(sandbox_id, NetworkPolicy(revision="second"))
    assert await reported() == "second"
    await cubelet.pause_sandbox(sandbox_id, FULL)
    await cubelet.resume_sandbox(sandbox_id, again(network=NetworkPolicy(revision="third")))
    assert await reported() == "third"


async def test_a_sandbox_is_changing_for_as_long_as_a_call_is_at_it(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    assert not (await cubelet.get_sandbox(sandbox_id)).changing
    node.host.latency = timedelta(seconds=2)
    pausing = asyncio.create_task(cubelet.pause_sandbox(sandbox_id, FULL))

    async def changing() -> bool:
        return (await cubelet.get_sandbox(sandbox_id)).changing

    await until(changing)
    assert [one.changing for one in (await cubelet.status()).sandboxes] == [True]
    await pausing
    assert not await changing()


async def test_a_vm_that_dies_as_soon_as_it_runs_is_no_resumed_sandbox(
    node: FakeMachineRoom, cubelet: NodeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(sandbox_id, FULL)

    def die(point: str) -> None:
        if point == "resume:ready":
            for machine in list(node.host.machines.values()):
                node.host.crash(machine.process)

    monkeypatch.setattr(resuming, "reach", die)
    with pytest.raises(VmmFailure, match="ended while it was resumed"):
        await cubelet.resume_sandbox(sandbox_id, again())
    monkeypatch.undo()
    assert (await cubelet.get_sandbox(sandbox_id)).state is NodeSandboxState.PAUSED
    costs_nothing(node.ledger())
    assert (await cubelet.resume_sandbox(sandbox_id, again())).state is NodeSandboxState.RUNNING
