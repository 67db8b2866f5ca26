"""What the contract cannot ask of every driver: how QEMU's clones are saved, and what that costs."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.hypervisor.base import Accelerator, Confinement, Snapshot, VmProcess, VmSpec
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.qemu.self_test import objection_to_dirty_pages
from appliance.hypervisor.scopes.session import SessionScopes
from tests.support.hypervisors import PATIENCE, QemuHarness

pytestmark = pytest.mark.guest

_KIB = 1024


async def running(harness: QemuHarness, snapshot: Snapshot, spec: VmSpec) -> VmProcess:
    vm = await harness.driver.clone(spec, snapshot, deadline=PATIENCE)
    await harness.driver.resume(vm, deadline=PATIENCE)
    return vm


def changed_kib(vm: VmProcess, memory_file: Path) -> int:
    """Return what the kernel accounts as the machine's own RAM."""
    smaps = Path(f"/proc/{vm.pid}/smaps").read_text()
    (ram,) = re.findall(rf" {re.escape(str(memory_file))}\n(.*?)VmFlags", smaps, re.DOTALL)
    anonymous = re.search(r"^Anonymous:\s+(\d+) kB", ram, re.MULTILINE)
    assert anonymous is not None
    return int(anonymous[1])


def open_files(vm: VmProcess) -> int:
    return len(list(Path(f"/proc/{vm.pid}/fd").iterdir()))


def allocated_kib(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir()) // _KIB


async def test_save_costs_the_changed_pages(harness: QemuHarness, template: Snapshot, tmp_path: Path) -> None:
    vm = await running(harness, template, harness.spec("clone", word="clone"))
    await harness.hears(vm, "template", "clone")
    await harness.driver.save(vm, template, tmp_path / "saved", deadline=PATIENCE)
    changed = changed_kib(vm, template.memory_file)
    assert 0 < changed < template.memory_mib * _KIB / 2
    # Less where pages were put back as they were.
    assert changed / 2 < allocated_kib(tmp_path / "saved") <= changed + 64


async def test_machine_may_be_saved_often(harness: QemuHarness, template: Snapshot, tmp_path: Path) -> None:
    vm = await running(harness, template, harness.spec("clone", word="clone"))
    await harness.hears(vm, "template", "clone")
    await harness.driver.save(vm, template, tmp_path / "first", deadline=PATIENCE)
    before = open_files(vm)
    for number in range(3):
        await harness.driver.resume(vm, deadline=PATIENCE)
        await harness.driver.save(vm, template, tmp_path / str(number), deadline=PATIENCE)
    assert open_files(vm) == before


@pytest.mark.root
async def test_confined_machine_is_saved_and_restored(harness: QemuHarness, template: Snapshot, tmp_path: Path) -> None:
    spec = replace(harness.spec("clone", word="clone"), confinement=Confinement(uid=100_001, gid=100_001))
    vm = await running(harness, template, spec)
    await harness.hears(vm, "template", "clone")
    saved = await harness.driver.save(vm, template, tmp_path / "saved", deadline=PATIENCE)
    await harness.driver.stop(vm)
    spec = replace(harness.spec("again", word="later"), confinement=Confinement(uid=100_002, gid=100_002))
    again = await running(harness, saved, spec)
    await harness.hears(again, "template", "clone", "later")


async def test_ways_to_save_may_follow_each_other(harness: QemuHarness, template: Snapshot, tmp_path: Path) -> None:
    """A node may come to another opinion of itself while its sandboxes are paused."""
    saved, words = template, ["template"]
    for number, dirty in enumerate((False, True, False, False)):
        harness.dirty_page_snapshots = dirty
        await harness.restart()
        words.append(f"word{number}")
        vm = await running(harness, saved, harness.spec(f"clone{number}", word=words[-1]))
        await harness.hears(vm, *words)
        saved = await harness.driver.save(vm, saved, tmp_path / f"saved{number}", deadline=PATIENCE)
        assert (saved.changed_pages is not None) is dirty
        await harness.driver.stop(vm)
    await harness.hears(await running(harness, saved, harness.spec("last", word="last")), *words, "last")


async def test_machine_goes_on_after_a_full_save(harness: QemuHarness, template: Snapshot, tmp_path: Path) -> None:
    harness.dirty_page_snapshots = False
    await harness.restart()
    vm = await running(harness, template, harness.spec("clone", word="clone"))
    await harness.hears(vm, "template", "clone")
    await harness.driver.save(vm, template, tmp_path / "saved", deadline=PATIENCE)
    await harness.driver.resume(vm, deadline=PATIENCE)
    await harness.tell(vm, "later")
    await harness.hears(vm, "template", "clone", "later")


class _ForgetsPages(QemuHypervisor):
    """Restores a machine without what it had changed, as a QEMU would that had RAM elsewhere than we think."""

    async def save(self, vm: VmProcess, base: Snapshot, directory: Path, *, deadline: timedelta) -> Snapshot:
        return replace(await super().save(vm, base, directory, deadline=deadline), changed_pages=None)


@pytest.mark.parametrize(("driver", "works"), [(QemuHypervisor, True), (_ForgetsPages, False)])
async def test_self_test_tells_whether_a_restored_machine_is_the_saved_one(
    harness: QemuHarness, tmp_path: Path, driver: type[QemuHypervisor], works: bool
) -> None:
    tried = driver(accelerator=Accelerator.TCG, scopes=SessionScopes(), dirty_page_snapshots=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    try:
        objection = await objection_to_dirty_pages(tried, harness.source, deadline=PATIENCE, scratch=scratch)
    finally:
        await tried.close()
    assert (objection is None) is works, objection
    assert list(scratch.iterdir()) == []
