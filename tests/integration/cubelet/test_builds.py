"""Template builds: one that fails, at whatever step, says why and frees everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from appliance.clients.node import NodeClient
from appliance.common import failpoints
from appliance.contracts.node import BuildState
from appliance.cubelet.services.template_store import UPPER
from appliance.domain.errors import BuildNotFound
from tests.integration.cubelet.conftest import (
    IMAGE,
    TEMPLATE,
    FakeMachineRoom,
    build_request,
    built,
    created,
    finished,
    wanted,
)
from tests.support.waiting import eventually

Fault = Callable[[FakeMachineRoom], None]


def _failing(operation: str) -> Fault:
    return lambda node: node.host.fail_next(operation)


def _no_room_for_layers(node: FakeMachineRoom) -> None:
    node.images.full = True


def _no_room_for_disks(node: FakeMachineRoom) -> None:
    node.disks.full = True


def _refused_image(node: FakeMachineRoom) -> None:
    node.images.add(IMAGE, breaks_rule="path-traversal")


def _refused_init(node: FakeMachineRoom) -> None:
    node.guests.refuse_init = True


def _silent_init(node: FakeMachineRoom) -> None:
    node.guests.stall_init = True


def _never_ready(node: FakeMachineRoom) -> None:
    node.guests.exit_code = 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param(_refused_image, "path-traversal", id="image"),
        pytest.param(_no_room_for_layers, "no room", id="layers"),
        pytest.param(_no_room_for_disks, "full", id="disk"),
        pytest.param(_failing("boot"), "boot", id="boot"),
        pytest.param(_refused_init, "500", id="init"),
        pytest.param(_silent_init, "in time", id="silence"),
        pytest.param(_never_ready, "did not become ready", id="ready"),
        pytest.param(_failing("snapshot"), "snapshot", id="snapshot"),
    ],
)
async def test_a_failed_build_says_why_and_frees_everything(
    fault: Fault, says: str, node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    before = node.ledger()
    fault(node)
    request = build_request(ready_cmd="true")
    await cubelet.start_build(request)
    progress = await finished(cubelet, request.build_id)
    assert progress.state is BuildState.ERROR
    assert says in (progress.reason or "")
    assert [entry.message for entry in progress.logs if entry.level == "error"] == [progress.reason]
    assert await node.rest() == before
    await eventually(lambda: not list(node.images.directory.glob("*.squashfs")))


@pytest.mark.parametrize(
    ("point", "state"),
    [
        *(
            (f"template:{step}", BuildState.ERROR)
            for step in ("imported", "disk", "launched", "started", "finalized", "saved")
        ),
        ("template:published", BuildState.READY),
    ],
)
async def test_a_build_that_fails_between_its_steps_is_made_again(
    point: str, state: BuildState, node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    before = node.ledger()
    failpoint = node.directory / "failpoint"
    failpoint.write_text(f"{point} raise")
    failpoints.arm(failpoint)
    request = build_request(ready_cmd="true")
    try:
        await cubelet.start_build(request)
        assert (await finished(cubelet, request.build_id)).state is state
    finally:
        failpoints.arm(None)
    assert await node.rest() == before
    await cubelet.start_build(request)
    progress = await finished(cubelet, request.build_id)
    assert progress.state is BuildState.READY, progress.reason


async def test_a_build_whose_vmm_dies_fails_at_once(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    before = node.ledger()
    node.guests.exit_code = 1
    request = build_request(ready_cmd="test -e /never")
    await cubelet.start_build(request)
    await eventually(lambda: any("test -e /never" in command for command in node.guests.commands))
    (machine,) = node.host.machines.values()
    node.host.crash(machine.process)
    progress = await finished(cubelet, request.build_id)
    assert progress.state is BuildState.ERROR
    assert f"the VMM process of {machine.spec.vm_id} ended by itself" in (progress.reason or "")
    assert await node.rest() == before


async def test_a_build_that_failed_can_be_made_again_with_the_same_id(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    request = build_request()
    node.host.fail_next("boot")
    await cubelet.start_build(request)
    assert (await finished(cubelet, request.build_id)).state is BuildState.ERROR
    await cubelet.start_build(request)
    progress = await finished(cubelet, request.build_id)
    assert progress.state is BuildState.READY, progress.reason


async def test_a_ready_build_is_left_as_it_is(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    request = build_request()
    await cubelet.start_build(request)
    await finished(cubelet, request.build_id)
    before = await node.rest()
    await cubelet.start_build(request)
    assert node.ledger() == before
    progress = await cubelet.get_build(request.build_id)
    assert (progress.state, progress.envd_version, progress.disk_size_mib) == (BuildState.READY, "0.6.13", 16)


async def test_the_log_is_read_from_where_the_reader_is(cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    everything = (await cubelet.get_build(build_id)).logs
    assert len(everything) > 3
    assert (await cubelet.get_build(build_id, log_offset=2)).logs == everything[2:]
    assert (await cubelet.get_build(build_id, log_offset=len(everything))).logs == ()


async def test_the_start_command_and_the_probe_run_before_the_snapshot(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    await built(cubelet, start_cmd="serve --forever", ready_cmd="test -e /ready", probe_port=49983)
    assert node.guests.commands[:2] == ["/bin/bash -l -c serve --forever", "/bin/bash -l -c test -e /ready"]


async def test_a_service_that_only_fails_is_not_ready(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    request = build_request(probe_port=50000)
    await cubelet.start_build(request)
    progress = await finished(cubelet, request.build_id)
    assert progress.state is BuildState.ERROR
    assert "port 50000 never succeeded" in (progress.reason or "")


async def test_a_build_of_a_stopped_cubelet_leaves_nothing_and_is_unknown(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        before = node.ledger()
        node.guests.stall_init = True
        request = build_request()
        await cubelet.start_build(request)
        await eventually(lambda: bool(node.host.machines))
    node.guests.stall_init = False
    async with node.cubelet() as cubelet:
        assert node.ledger() == before
        with pytest.raises(BuildNotFound):
            await cubelet.get_build(request.build_id)


async def test_two_builds_of_one_image_share_its_layer(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    first, second = await built(cubelet), await built(cubelet)
    assert len(await node.images.layers()) == 1
    await cubelet.delete_build(TEMPLATE, first)
    assert len(await node.images.layers()) == 1
    await created(cubelet, second)


async def test_a_template_can_be_deleted_while_another_is_built(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    node.host.latency = timedelta(seconds=3)
    running = build_request()
    await cubelet.start_build(running)
    async with asyncio.timeout(2):
        await cubelet.delete_build(TEMPLATE, build_id)
    assert (await cubelet.get_build(running.build_id)).state is BuildState.BUILDING


async def test_deleting_a_build_that_runs_stops_it(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    before = node.ledger()
    node.guests.exit_code = 1
    request = build_request(ready_cmd="test -e /never")
    await cubelet.start_build(request)
    await eventually(lambda: any("test -e /never" in command for command in node.guests.commands))
    await cubelet.delete_build(TEMPLATE, request.build_id)
    assert node.ledger() == before
    with pytest.raises(BuildNotFound):
        await cubelet.get_build(request.build_id)
    await eventually(lambda: not list(node.images.directory.glob("*.squashfs")))
    node.guests.exit_code = 0
    await built(cubelet)


async def test_a_template_survives_a_restart(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
    async with node.cubelet() as cubelet:
        assert (await cubelet.get_build(build_id)).state is BuildState.READY
        await cubelet.create_sandbox("i" + "a" * 20, wanted(build_id))


@pytest.mark.parametrize(
    ("wanted_mib", "gets_mib", "says"),
    [
        (64, 64, "the disk grows from 32 MiB to 64 MiB"),
        (32, 32, None),
        (16, 32, "the disk has 32 MiB, like the template's that this is built from, not 16 MiB"),
    ],
)
async def test_a_disk_that_is_built_upon_grows_and_never_shrinks(
    node: FakeMachineRoom, cubelet: NodeClient, wanted_mib: int, gets_mib: int, says: str | None
) -> None:
    base = await built(cubelet, writable_layer_mib=32)
    request = build_request(image=None, from_build=base, steps=(), writable_layer_mib=wanted_mib)
    await cubelet.start_build(request)
    progress = await finished(cubelet, request.build_id)
    assert (progress.state, progress.disk_size_mib) == (BuildState.READY, gets_mib), progress.reason
    told = [entry.message for entry in progress.logs if "the disk" in entry.message]
    assert told == ([says] if says is not None else [])
    disks = {one: node.settings.data_dir / "templates" / one / UPPER for one in (base, request.build_id)}
    sizes = {one: disk.stat().st_size >> 20 for one, disk in disks.items()}
    assert sizes == {base: 32, request.build_id: gets_mib}
