"""Snapshots: builds made of sandboxes, which go on; what they need cannot be deleted before them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.clients.node import NodeClient
from appliance.common import failpoints
from appliance.contracts.node import BuildState, NodeSandboxState, Pause, Resume, Snapshot
from appliance.domain.errors import BuildNotFound, Conflict, GuestUnresponsive, NodeFailure
from appliance.hypervisor.base import VmState
from tests.integration.cubelet.conftest import TEMPLATE, FakeMachineRoom, built, created
from tests.integration.cubelet.test_pausing import again
from tests.support.waiting import eventually

SNAPSHOT = Snapshot(template_id="snap", build_id="the-snapshot")


def ram_of(node: FakeMachineRoom, sandbox_id: str) -> str:
    process = node.record_of(sandbox_id).process
    assert process is not None
    machine = node.host.find(process)
    assert machine is not None
    return machine.ram


def set_ram(node: FakeMachineRoom, sandbox_id: str, ram: str) -> None:
    process = node.record_of(sandbox_id).process
    assert process is not None
    machine = node.host.find(process)
    assert machine is not None
    machine.ram = ram


async def test_sandboxes_of_a_snapshot_have_its_ram_and_are_their_own(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    source = await created(cubelet, await built(cubelet))
    set_ram(node, source, "nonce")
    taken = await cubelet.snapshot_sandbox(source, SNAPSHOT)
    assert taken == await cubelet.snapshot_sandbox(source, SNAPSHOT)
    assert (taken.build_id, taken.disk_size_mib, taken.envd_version) == ("the-snapshot", 16, "0.6.13")
    assert {machine.state for machine in node.host.machines.values()} == {VmState.RUNNING}
    progress = await cubelet.get_build("the-snapshot")
    assert (progress.state, progress.disk_size_mib) == (BuildState.READY, 16)
    set_ram(node, source, "later")
    children = [await created(cubelet, "the-snapshot", env_vars={"N": str(number)}) for number in range(2)]
    assert [ram_of(node, child) for child in children] == ["nonce", "nonce"]
    for number, child in enumerate(children):
        (identity,) = node.guests.identities_of(child)
        assert (identity["envVars"], identity["inheritEnv"]) == ({"N": str(number)}, True)
        assert (await cubelet.get_sandbox(child)).build_id == "the-snapshot"


async def test_what_a_snapshot_needs_goes_after_it_and_its_children_do_not_need_it(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    source = await created(cubelet, build_id)
    await cubelet.snapshot_sandbox(source, SNAPSHOT)
    await cubelet.delete_sandbox(source)
    with pytest.raises(Conflict, match="1 snapshots need"):
        await cubelet.delete_build(TEMPLATE, build_id)
    running, paused = await created(cubelet, "the-snapshot"), await created(cubelet, "the-snapshot")
    set_ram(node, paused, "its own")
    await cubelet.pause_sandbox(paused, Pause())
    await cubelet.delete_build("snap", "the-snapshot")
    with pytest.raises(BuildNotFound):
        await cubelet.get_build("the-snapshot")
    with pytest.raises(Conflict, match="2 sandboxes"):
        await cubelet.delete_build(TEMPLATE, build_id)
    await cubelet.resume_sandbox(paused, again())
    assert ram_of(node, paused) == "its own"
    # One of a child needs the same template, and nothing in between.
    await cubelet.snapshot_sandbox(running, SNAPSHOT)
    for sandbox_id in (running, paused):
        await cubelet.delete_sandbox(sandbox_id)
    await cubelet.delete_build("snap", "the-snapshot")
    await cubelet.delete_build(TEMPLATE, build_id)
    assert node.ledger() == before
    await eventually(lambda: not list(node.images.directory.glob("*.squashfs")))


async def test_of_a_booted_sandbox_the_ram_stays_for_as_long_as_anything_needs_it(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    source = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(source, Pause(memory=False))
    await cubelet.resume_sandbox(source, again())
    set_ram(node, source, "after the boot")
    await cubelet.snapshot_sandbox(source, SNAPSHOT)
    await cubelet.delete_sandbox(source)
    child = await created(cubelet, "the-snapshot")
    await cubelet.delete_build("snap", "the-snapshot")
    await cubelet.pause_sandbox(child, Pause())
    await cubelet.resume_sandbox(child, again())
    assert ram_of(node, child) == "after the boot"


async def test_of_a_disk_alone_sandboxes_boot(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet, start_cmd="serve")
    source = await created(cubelet, build_id, env_vars={"A": "1"}, access_token="secret")
    set_ram(node, source, "nonce")
    await cubelet.snapshot_sandbox(source, SNAPSHOT.model_copy(update={"memory": False}))
    assert node.guests.flushed[1:] == [source], "the first was the build"
    starts = len(node.guests.commands)
    child = await created(cubelet, "the-snapshot", env_vars={"B": "2"})
    assert ram_of(node, child) == ""
    assert node.guests.commands[starts:] == ["/bin/bash -l -c serve"]
    (identity,) = node.guests.identities_of(child)
    assert identity["envVars"] == {"PATH": "/bin", "LANG": "C.UTF-8", "A": "1", "B": "2"}
    await cubelet.pause_sandbox(child, Pause())
    await cubelet.delete_build("snap", "the-snapshot")
    await cubelet.resume_sandbox(child, again())


async def test_a_paused_sandbox_is_not_snapshotted(cubelet: NodeClient) -> None:
    source = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(source, Pause())
    with pytest.raises(Conflict, match="is paused"):
        await cubelet.snapshot_sandbox(source, SNAPSHOT)


async def test_snapshots_outlive_a_restart_and_are_not_pooled(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        source = await created(cubelet, await built(cubelet))
        set_ram(node, source, "nonce")
        await cubelet.snapshot_sandbox(source, SNAPSHOT)
    node.reconfigured(pool=node.settings.pool.model_copy(update={"per_template": 1}))
    async with node.cubelet() as cubelet:
        await eventually(lambda: len(node.host.machines) == 2)
        status = await cubelet.status()
        assert {one.build_id: one.pooled for one in status.replicas}["the-snapshot"] == 0
        child = await created(cubelet, "the-snapshot")
        assert ram_of(node, child) == "nonce"


def _save(node: FakeMachineRoom) -> None:
    node.host.fail_next("save")


def _disk(node: FakeMachineRoom) -> None:
    node.disks.full = True


def _publish(node: FakeMachineRoom) -> None:
    file = node.directory / "failpoint"
    file.write_text("snapshot:resumed raise")
    failpoints.arm(file)


@pytest.mark.parametrize("fault", [_save, _disk, _publish])
async def test_a_snapshot_that_fails_leaves_nothing_and_the_sandbox_running(
    fault: Callable[[FakeMachineRoom], None], node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    source = await created(cubelet, await built(cubelet))
    before = await node.rest()
    fault(node)
    with pytest.raises(NodeFailure):
        await cubelet.snapshot_sandbox(source, SNAPSHOT)
    node.disks.full = False
    failpoints.arm(None)
    assert node.ledger() == before
    assert {machine.state for machine in node.host.machines.values()} == {VmState.RUNNING}
    with pytest.raises(BuildNotFound):
        await cubelet.get_build("the-snapshot")
    await cubelet.snapshot_sandbox(source, SNAPSHOT)


async def test_a_wedged_guests_disk_is_not_snapshotted_alone(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    source = await created(cubelet, await built(cubelet))
    node.guests.refuse_flush = True
    with pytest.raises(GuestUnresponsive):
        await cubelet.snapshot_sandbox(source, SNAPSHOT.model_copy(update={"memory": False}))
    assert (await cubelet.get_sandbox(source)).state is NodeSandboxState.RUNNING


async def test_resume_takes_what_the_wire_says(cubelet: NodeClient) -> None:
    source = await created(cubelet, await built(cubelet))
    await cubelet.pause_sandbox(source, Pause())
    wanted = again()
    assert isinstance(wanted, Resume)
    resumed = await cubelet.resume_sandbox(source, wanted)
    assert resumed.end_at == wanted.end_at
