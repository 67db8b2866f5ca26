"""What the contract cannot ask of every driver: QEMU's confinement, its independence, and how its guests end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import VmmFailure
from appliance.hypervisor import console
from appliance.hypervisor.base import Accelerator, Confinement, Disk, Snapshot, VmProcess, VmSpec, VmState
from appliance.hypervisor.confinement import OOM_SCORE_ADJ
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.scopes.session import SessionScopes
from tests.support import tiny_guest
from tests.support.hypervisors import PATIENCE, QemuHarness
from tests.support.waiting import eventually

pytestmark = pytest.mark.guest


async def running_clone(harness: QemuHarness, template: Snapshot, spec: VmSpec) -> VmProcess:
    vm = await harness.driver.clone(spec, template, deadline=PATIENCE)
    await harness.driver.resume(vm, deadline=PATIENCE)
    return vm


def proc(vm: VmProcess, name: str) -> str:
    return Path(f"/proc/{vm.pid}/{name}").read_text()


def status(vm: VmProcess) -> dict[str, list[str]]:
    return {name: value.split() for name, _, value in (line.partition(":") for line in proc(vm, "status").splitlines())}


async def test_disks_are_in_the_order_of_the_spec(harness: QemuHarness, tmp_path: Path) -> None:
    second = tmp_path / "second"
    tiny_guest.write_word(second, "content-of-the-second")
    spec = harness.spec("machine", word="second-disk")
    spec = replace(spec, disks=(*spec.disks, Disk(second, read_only=True)))
    vm = await harness.driver.boot(spec, harness.source, deadline=PATIENCE)
    await tiny_guest.printed(harness.driver.console(vm), "\ncontent-of-the-second", seconds=PATIENCE.total_seconds())


async def test_clone_costs_the_pages_it_writes(harness: QemuHarness, template: Snapshot) -> None:
    vm = await running_clone(harness, template, harness.spec("clone", word="clone"))
    await harness.hears(vm, "template", "clone")
    private = re.search(r"Private_Dirty:\s+(\d+) kB", proc(vm, "smaps_rollup"))
    assert private is not None
    assert int(private[1]) < template.memory_mib * 1024 / 2


@pytest.mark.root
async def test_confined_vmm_is_nobody_and_can_do_nothing(harness: QemuHarness, template: Snapshot) -> None:
    spec = replace(harness.spec("clone", word="clone"), confinement=Confinement(uid=100_001, gid=100_002))
    vm = await running_clone(harness, template, spec)
    await harness.hears(vm, "template", "clone")
    what = status(vm)
    assert what["Uid"] == ["100001"] * 4
    assert what["Gid"] == ["100002"] * 4
    assert what["Groups"] == []
    assert {what[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert what["NoNewPrivs"] == ["1"]
    assert what["Seccomp"] == ["2"]
    assert int(proc(vm, "oom_score_adj")) == OOM_SCORE_ADJ


@pytest.mark.root
async def test_confined_machine_boots_where_its_user_can_reach_nothing(harness: QemuHarness, tmp_path: Path) -> None:
    spec = replace(harness.spec("machine", word="hello"), confinement=Confinement(uid=100_003, gid=100_003))
    os.chmod(tmp_path, 0o700)  # noqa: PTH101 - one call, no file is read
    vm = await harness.driver.boot(spec, harness.source, deadline=PATIENCE)
    await harness.hears(vm, "hello")
    snapshot = await harness.driver.snapshot(vm, spec.runtime_dir, deadline=PATIENCE)
    assert snapshot.memory_file.stat().st_mode & 0o777 == 0o444


async def test_guest_that_floods_its_console_fills_no_disk_and_can_be_paused(
    harness: QemuHarness, template: Snapshot
) -> None:
    vm = await running_clone(harness, template, harness.spec("clone", word="flood"))
    log = harness.driver.console(vm)
    rotated = log.with_name(log.name + ".1")
    await eventually(rotated.exists, seconds=PATIENCE.total_seconds())
    await harness.driver.pause(vm, deadline=PATIENCE)
    assert log.stat().st_size + rotated.stat().st_size <= 2 * console.SEGMENT_BYTES


@pytest.mark.parametrize(("word", "last_words"), [("panic", "Kernel panic"), ("poweroff", "Power down")])
async def test_guest_that_ends_itself_ends_its_vmm(
    harness: QemuHarness, template: Snapshot, word: str, last_words: str
) -> None:
    spec = harness.spec("clone", word=word)
    vm = await running_clone(harness, template, spec)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        await harness.driver.wait_exit(vm)
    assert await harness.driver.describe(vm) is VmState.EXITED
    assert last_words in console.tail(harness.driver.console(vm))
    assert not Path(f"/proc/{vm.pid}").exists()  # noqa: ASYNC240 - procfs does not block


async def test_restore_that_fails_is_tried_again_then_told_with_qemus_words(
    harness: QemuHarness, template: Snapshot, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(template.device_state.read_bytes()[:20_000])
    spec = harness.spec("clone")
    with pytest.raises(VmmFailure, match="error while loading state"):
        await harness.driver.clone(spec, replace(template, device_state=damaged), deadline=PATIENCE)
    assert harness.driver.restore_retries == 1
    assert harness.leftovers() == set()
    assert list(spec.runtime_dir.iterdir()) == []


async def test_more_devices_than_the_machine_has_are_refused(harness: QemuHarness) -> None:
    spec = harness.spec("machine")
    with pytest.raises(VmmFailure, match="needs 9 devices"):
        await harness.driver.boot(replace(spec, disks=spec.disks * 9), harness.source, deadline=PATIENCE)
    assert not spec.memory_file.exists()


async def test_machine_survives_the_death_of_the_process_that_made_it(harness: QemuHarness, template: Snapshot) -> None:
    spec = harness.spec("clone", word="clone")
    with parent_of(spec, template) as (parent, vm):
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert await harness.driver.describe(vm) is VmState.PAUSED
        await harness.driver.resume(vm, deadline=PATIENCE)
        async with asyncio.TaskGroup() as group:
            group.create_task(harness.driver.wait_exit(vm))
            await harness.hears(vm, "template", "clone")
            await harness.driver.stop(vm)
    assert harness.leftovers() == set()


@contextmanager
def parent_of(spec: VmSpec, template: Snapshot) -> Iterator[tuple[subprocess.Popen[str], VmProcess]]:
    """A process that cloned `spec` and now waits, and what it cloned."""
    values = json.dumps([asdict(spec), asdict(template)], default=str)
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.hypervisor.test_qemu", values],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        try:
            assert parent.stdout is not None
            yield parent, VmProcess(**json.loads(parent.stdout.readline()))
        finally:
            parent.kill()


async def _clone_and_wait(spec: dict[str, Any], template: dict[str, Any]) -> None:
    disks = tuple(Disk(Path(disk["path"]), disk["read_only"]) for disk in spec["disks"])
    paths = {name: Path(spec[name]) for name in ("memory_file", "runtime_dir")}
    files = {name: Path(template[name]) for name in ("memory_file", "device_state")}
    driver = QemuHypervisor(accelerator=Accelerator.TCG, scopes=SessionScopes())
    vm = await driver.clone(
        VmSpec(**{**spec, **paths, "disks": disks}), Snapshot(**{**template, **files}), deadline=PATIENCE
    )
    print(json.dumps(asdict(vm)), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_clone_and_wait(*json.loads(sys.argv[1])))
