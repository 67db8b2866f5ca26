"""What every Hypervisor driver promises, asked of the fake and of QEMU with a real guest."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.domain.errors import DeadlineExceeded, VmmFailure
from appliance.hypervisor.base import Disk, Slot, Snapshot, VmProcess, VmState
from tests.support.hypervisors import PATIENCE, FakeHarness, Harness, QemuHarness, make_template

HARNESSES: dict[str, Callable[[Path], Harness]] = {"fake": FakeHarness, "qemu": QemuHarness}


EMPTY = Slot(size_mib=16)


@pytest.fixture(scope="module", params=["fake", pytest.param("qemu", marks=pytest.mark.guest)])
def driver_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def template(driver_name: str, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A snapshot that all tests of a driver share: they may not change it."""
    return _template(driver_name, tmp_path_factory)


@pytest.fixture(scope="module")
def slotted(driver_name: str, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A snapshot of a machine with a slot that had nothing in it."""
    return _template(driver_name, tmp_path_factory, (EMPTY,))


def _template(driver_name: str, tmp_path_factory: pytest.TempPathFactory, slots: tuple[Slot, ...] = ()) -> Snapshot:
    async def make() -> Snapshot:
        harness = HARNESSES[driver_name](tmp_path_factory.mktemp("template"))
        try:
            return await make_template(harness, slots)
        finally:
            await harness.close()

    return asyncio.run(make())


@pytest.fixture
async def harness(driver_name: str, tmp_path: Path) -> AsyncIterator[Harness]:
    harness = HARNESSES[driver_name](tmp_path)
    try:
        yield harness
    finally:
        await harness.close()


@pytest.fixture
async def clone(harness: Harness, template: Snapshot) -> VmProcess:
    """A clone that is running, and whose guest knows the words `template` and `clone`."""
    vm = await harness.driver.clone(harness.spec("clone", word="clone"), template, deadline=PATIENCE)
    await harness.driver.resume(vm, deadline=PATIENCE)
    await harness.hears(vm, "template", "clone")
    return vm


def files(directory: Path, pattern: str) -> set[Path]:
    return set(directory.glob(pattern))


async def ended(harness: Harness, vm: VmProcess) -> bool:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        await harness.driver.wait_exit(vm)
    return await harness.driver.describe(vm) is VmState.EXITED


async def test_booted_machine_runs_and_its_snapshot_pauses_it(harness: Harness) -> None:
    spec = harness.spec("machine", word="first")
    vm = await harness.driver.boot(spec, harness.source, deadline=PATIENCE)
    assert await harness.driver.describe(vm) is VmState.RUNNING
    await harness.hears(vm, "first")

    snapshot = await harness.driver.snapshot(vm, spec.runtime_dir, deadline=PATIENCE)

    assert await harness.driver.describe(vm) is VmState.PAUSED
    assert snapshot.memory_file == spec.memory_file
    assert (snapshot.vcpus, snapshot.memory_mib) == (spec.vcpus, spec.memory_mib)
    capabilities = await harness.driver.capabilities()
    assert snapshot.machine.startswith(capabilities.vmm)
    assert snapshot.device_state.stat().st_size > 0


async def test_clones_made_at_once_share_no_ram(harness: Harness, template: Snapshot) -> None:
    before = hashlib.sha256(template.memory_file.read_bytes()).digest()
    specs = [harness.spec(f"clone{n}", word=f"word{n}") for n in range(4)]
    vms = await asyncio.gather(*(harness.driver.clone(spec, template, deadline=PATIENCE) for spec in specs))
    await asyncio.gather(*(harness.driver.resume(vm, deadline=PATIENCE) for vm in vms))

    for number, vm in enumerate(vms):
        await harness.hears(vm, "template", f"word{number}")
    await harness.tell(vms[0], "more")
    await harness.hears(vms[0], "template", "word0", "more")
    await harness.stays(vms[1], "template", "word1")
    assert hashlib.sha256(template.memory_file.read_bytes()).digest() == before


async def test_clone_is_paused_until_resumed(harness: Harness, template: Snapshot) -> None:
    vm = await harness.driver.clone(harness.spec("clone", word="clone"), template, deadline=PATIENCE)
    assert await harness.driver.describe(vm) is VmState.PAUSED
    await harness.stays(vm, "template")
    await harness.driver.resume(vm, deadline=PATIENCE)
    assert await harness.driver.describe(vm) is VmState.RUNNING
    await harness.hears(vm, "template", "clone")


async def test_paused_guest_does_nothing_and_goes_on_when_resumed(harness: Harness, clone: VmProcess) -> None:
    await harness.driver.pause(clone, deadline=PATIENCE)
    assert await harness.driver.describe(clone) is VmState.PAUSED
    await harness.tell(clone, "later")
    await harness.stays(clone, "template", "clone")
    await harness.driver.resume(clone, deadline=PATIENCE)
    await harness.hears(clone, "template", "clone", "later")


async def test_pause_and_resume_may_be_repeated(harness: Harness, clone: VmProcess) -> None:
    await harness.driver.resume(clone, deadline=PATIENCE)
    assert await harness.driver.describe(clone) is VmState.RUNNING
    await harness.driver.pause(clone, deadline=PATIENCE)
    await harness.driver.pause(clone, deadline=PATIENCE)
    assert await harness.driver.describe(clone) is VmState.PAUSED


async def test_stop_leaves_nothing_and_may_be_repeated(harness: Harness, clone: VmProcess) -> None:
    await harness.driver.stop(clone)
    assert await harness.driver.describe(clone) is VmState.EXITED
    assert harness.leftovers() == set()
    await harness.driver.stop(clone)


async def test_paused_machine_can_be_stopped(harness: Harness, clone: VmProcess) -> None:
    await harness.driver.pause(clone, deadline=PATIENCE)
    await harness.driver.stop(clone)
    assert harness.leftovers() == set()


async def test_machine_that_is_killed_is_noticed(harness: Harness, clone: VmProcess) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ended(harness, clone))
        await asyncio.sleep(0)
        harness.crash(clone)
    assert waiting.result()
    assert await ended(harness, clone), "waiting for a machine that has ended returns at once"
    with pytest.raises(VmmFailure):
        await harness.driver.resume(clone, deadline=PATIENCE)
    await harness.driver.stop(clone)
    assert harness.leftovers() == set()


async def test_every_waiter_is_told_of_the_end(harness: Harness, clone: VmProcess) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(ended(harness, clone)) for _ in range(3)]
        await asyncio.sleep(0)
        await harness.driver.stop(clone)
    assert all(waiter.result() for waiter in waiting)


async def test_new_driver_finds_the_machines_of_the_former_one(harness: Harness, clone: VmProcess) -> None:
    await harness.restart()
    assert await harness.driver.describe(clone) is VmState.RUNNING
    await harness.driver.pause(clone, deadline=PATIENCE)
    assert await harness.driver.describe(clone) is VmState.PAUSED
    await harness.restart()
    await harness.driver.resume(clone, deadline=PATIENCE)
    await harness.driver.stop(clone)
    assert harness.leftovers() == set()


async def test_new_driver_notices_the_end_of_a_machine_of_the_former_one(harness: Harness, clone: VmProcess) -> None:
    await harness.restart()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ended(harness, clone))
        await asyncio.sleep(0)
        harness.crash(clone)
    assert waiting.result()


async def test_console_is_followed_again_by_a_new_driver(harness: Harness, clone: VmProcess) -> None:
    await harness.restart()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(harness.driver.wait_exit(clone))
        await asyncio.sleep(0.1)
        await harness.tell(clone, "again")
        await harness.hears(clone, "template", "clone", "again")
        await harness.driver.stop(clone)
    assert waiting.done()


async def test_process_that_reused_the_pid_is_left_alone(harness: Harness, clone: VmProcess) -> None:
    reused = dataclasses.replace(clone, start_time_ticks=clone.start_time_ticks - 1, control_socket="/nonexistent/x")
    reused = dataclasses.replace(reused, runtime_dir="/nonexistent")
    assert await harness.driver.describe(reused) is VmState.EXITED
    assert await ended(harness, reused)
    await harness.driver.stop(reused)
    assert await harness.driver.describe(clone) is VmState.RUNNING


async def test_clone_cannot_be_snapshot(harness: Harness, clone: VmProcess, tmp_path: Path) -> None:
    with pytest.raises(VmmFailure):
        await harness.driver.snapshot(clone, tmp_path, deadline=PATIENCE)
    assert not (tmp_path / "device-state").exists()


async def test_snapshot_that_cannot_be_written_is_an_error_and_ends_nothing(harness: Harness, tmp_path: Path) -> None:
    vm = await harness.driver.boot(harness.spec("machine", word="first"), harness.source, deadline=PATIENCE)
    with pytest.raises(VmmFailure):
        await harness.driver.snapshot(vm, tmp_path / "absent", deadline=PATIENCE)
    assert await harness.driver.describe(vm) is not VmState.EXITED


async def test_saved_clone_goes_on_where_it_stopped(
    harness: Harness, template: Snapshot, clone: VmProcess, tmp_path: Path
) -> None:
    saved = await harness.driver.save(clone, template, tmp_path / "saved", deadline=PATIENCE)
    assert await harness.driver.describe(clone) is VmState.PAUSED
    await harness.driver.stop(clone)

    again = await harness.driver.clone(harness.spec("again", word="later"), saved, deadline=PATIENCE)

    assert await harness.driver.describe(again) is VmState.PAUSED
    await harness.driver.resume(again, deadline=PATIENCE)
    await harness.hears(again, "template", "clone", "later")


async def test_machine_goes_on_after_it_was_saved_and_shares_nothing_with_what_is_made_of_it(
    harness: Harness, template: Snapshot, clone: VmProcess, tmp_path: Path
) -> None:
    saved = await harness.driver.save(clone, template, tmp_path / "saved", deadline=PATIENCE)
    fork = await harness.driver.clone(harness.spec("fork", word="fork"), saved, deadline=PATIENCE)
    await harness.driver.resume(clone, deadline=PATIENCE)
    await harness.driver.resume(fork, deadline=PATIENCE)
    await harness.tell(clone, "original")

    await harness.hears(clone, "template", "clone", "original")
    await harness.hears(fork, "template", "clone", "fork")
    await harness.stays(clone, "template", "clone", "original")


async def test_save_of_a_saved_clone_needs_only_the_template(
    harness: Harness, template: Snapshot, clone: VmProcess, tmp_path: Path
) -> None:
    before = hashlib.sha256(template.memory_file.read_bytes()).digest()
    saved, vm = template, clone
    for number in range(2):
        former, saved = saved, await harness.driver.save(vm, saved, tmp_path / f"saved{number}", deadline=PATIENCE)
        await harness.driver.stop(vm)
        if former is not template:
            shutil.rmtree(former.device_state.parent)
        vm = await harness.driver.clone(harness.spec(f"again{number}", word=f"n{number}"), saved, deadline=PATIENCE)
        await harness.driver.resume(vm, deadline=PATIENCE)
        await harness.hears(vm, "template", "clone", *(f"n{n}" for n in range(number + 1)))
    assert saved.memory_file == template.memory_file
    assert hashlib.sha256(template.memory_file.read_bytes()).digest() == before


async def test_new_driver_saves_a_machine_of_the_former_one(
    harness: Harness, template: Snapshot, clone: VmProcess, tmp_path: Path
) -> None:
    await harness.restart()
    saved = await harness.driver.save(clone, template, tmp_path / "saved", deadline=PATIENCE)
    await harness.driver.stop(clone)
    again = await harness.driver.clone(harness.spec("again", word="later"), saved, deadline=PATIENCE)
    await harness.driver.resume(again, deadline=PATIENCE)
    await harness.hears(again, "template", "clone", "later")


@pytest.mark.parametrize("directory", ["absent/saved", "clone"], ids=["no parent", "exists"])
async def test_save_that_cannot_be_written_leaves_nothing_and_ends_nothing(
    harness: Harness, template: Snapshot, clone: VmProcess, tmp_path: Path, directory: str
) -> None:
    before = files(tmp_path, "**/*")
    with pytest.raises(VmmFailure):
        await harness.driver.save(clone, template, tmp_path / directory, deadline=PATIENCE)
    assert files(tmp_path, "**/*") == before
    await harness.driver.resume(clone, deadline=PATIENCE)
    await harness.tell(clone, "later")
    await harness.hears(clone, "template", "clone", "later")


async def test_save_of_a_machine_that_was_killed_leaves_nothing(
    harness: Harness, template: Snapshot, clone: VmProcess, tmp_path: Path
) -> None:
    harness.crash(clone)
    with pytest.raises(VmmFailure):
        await harness.driver.save(clone, template, tmp_path / "saved", deadline=PATIENCE)
    assert files(tmp_path, "saved*") == set()


async def test_booted_machine_cannot_be_saved_as_a_clone(harness: Harness, template: Snapshot, tmp_path: Path) -> None:
    vm = await harness.driver.boot(harness.spec("machine", word="first"), harness.source, deadline=PATIENCE)
    with pytest.raises(VmmFailure):
        await harness.driver.save(vm, template, tmp_path / "saved", deadline=PATIENCE)
    assert files(tmp_path, "saved*") == set()


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "another"},
        {"memory_mib": 64},
        {"vcpus": 2},
        {"memory_file": Path("/nonexistent")},
        {"device_state": Path("/nonexistent")},
        {"changed_pages": Path("/nonexistent")},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_clone_of_a_snapshot_that_does_not_fit_leaves_nothing(
    harness: Harness, template: Snapshot, change: dict[str, object]
) -> None:
    snapshot = dataclasses.replace(template, **change)  # type: ignore[arg-type]
    with pytest.raises(VmmFailure):
        await harness.driver.clone(harness.spec("clone"), snapshot, deadline=PATIENCE)
    assert harness.leftovers() == set()


async def test_clone_without_its_disk_leaves_nothing(harness: Harness, template: Snapshot) -> None:
    spec = dataclasses.replace(harness.spec("clone"), disks=(Disk(Path("/nonexistent"), read_only=False),))
    with pytest.raises(VmmFailure, match="/nonexistent"):
        await harness.driver.clone(spec, template, deadline=PATIENCE)
    assert harness.leftovers() == set()


async def test_clone_with_other_disks_than_its_template_is_refused(harness: Harness, template: Snapshot) -> None:
    spec = harness.spec("clone")
    with pytest.raises(VmmFailure):
        await harness.driver.clone(dataclasses.replace(spec, disks=spec.disks * 2), template, deadline=PATIENCE)
    assert harness.leftovers() == set()


async def test_clone_with_other_slots_than_its_template_is_refused(harness: Harness, template: Snapshot) -> None:
    spec = dataclasses.replace(harness.spec("clone"), slots=(EMPTY,))
    with pytest.raises(VmmFailure, match="built again"):
        await harness.driver.clone(spec, template, deadline=PATIENCE)
    assert harness.leftovers() == set()


async def test_clone_whose_volume_is_gone_leaves_nothing(harness: Harness, slotted: Snapshot) -> None:
    spec = dataclasses.replace(harness.spec("clone"), slots=(Slot(16, Path("/nonexistent")),))
    with pytest.raises(VmmFailure, match="/nonexistent"):
        await harness.driver.clone(spec, slotted, deadline=PATIENCE)
    assert harness.leftovers() == set()


async def test_two_machines_never_run_with_one_volume(harness: Harness, slotted: Snapshot, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 16 * 2**20)

    async def running(name: str) -> VmProcess:
        spec = dataclasses.replace(harness.spec(name, word=name), slots=(Slot(16, image),))
        vm = await harness.driver.clone(spec, slotted, deadline=PATIENCE)
        await harness.driver.resume(vm, deadline=PATIENCE)
        return vm

    first = await running("first")
    await harness.hears(first, "template", "first")
    with pytest.raises(VmmFailure):
        await running("second")
    await harness.driver.stop(first)
    third = await running("third")
    await harness.hears(third, "template", "third")


async def test_boot_without_a_kernel_leaves_nothing(harness: Harness) -> None:
    spec = harness.spec("machine")
    source = dataclasses.replace(harness.source, kernel=Path("/nonexistent"))
    with pytest.raises(VmmFailure, match="/nonexistent"):
        await harness.driver.boot(spec, source, deadline=PATIENCE)
    assert harness.leftovers() == set()
    assert not spec.memory_file.exists()


async def test_boot_does_not_overwrite_a_memory_file(harness: Harness) -> None:
    spec = harness.spec("machine")
    spec.memory_file.write_text("another's")
    with pytest.raises(VmmFailure):
        await harness.driver.boot(spec, harness.source, deadline=PATIENCE)
    assert spec.memory_file.read_text() == "another's"


def _late_boot(harness: Harness, _: Snapshot) -> Awaitable[VmProcess]:
    return harness.driver.boot(harness.spec("late"), harness.source, deadline=timedelta(milliseconds=1))


def _late_clone(harness: Harness, template: Snapshot) -> Awaitable[VmProcess]:
    return harness.driver.clone(harness.spec("late"), template, deadline=timedelta(milliseconds=1))


@pytest.mark.parametrize("start", [_late_boot, _late_clone])
async def test_start_that_is_late_leaves_nothing(
    harness: Harness, template: Snapshot, start: Callable[[Harness, Snapshot], Awaitable[VmProcess]]
) -> None:
    harness.delay()
    with pytest.raises(DeadlineExceeded):
        await start(harness, template)
    assert harness.leftovers() == set()


async def test_clone_that_is_cancelled_leaves_nothing(harness: Harness, template: Snapshot) -> None:
    harness.delay()
    async with asyncio.TaskGroup() as group:
        cloning = group.create_task(harness.driver.clone(harness.spec("clone"), template, deadline=PATIENCE))
        # Long enough for QEMU to be spawned, too short for it to be ready.
        await asyncio.sleep(0.005)
        cloning.cancel()
    assert cloning.cancelled()
    assert harness.leftovers() == set()
