"""What guests find in their slots: nothing in a template, and in its clones what the node puts there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.hypervisor.base import Slot, Snapshot, VmProcess
from tests.support import tiny_guest
from tests.support.hypervisors import PATIENCE, QemuHarness, make_template

pytestmark = pytest.mark.guest

SIZE_MIB = 4096
EMPTY = Slot(SIZE_MIB)


@pytest.fixture(scope="module")
def slotted(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    async def make() -> Snapshot:
        harness = QemuHarness(tmp_path_factory.mktemp("template"))
        try:
            return await make_template(harness, (EMPTY,))
        finally:
            await harness.close()

    return asyncio.run(make())


async def clone(harness: QemuHarness, template: Snapshot, name: str, slot: Slot, word: str) -> VmProcess:
    spec = replace(harness.spec(name, word=word), slots=(slot,))
    vm = await harness.driver.clone(spec, template, deadline=PATIENCE)
    await harness.driver.resume(vm, deadline=PATIENCE)
    return vm


def printed(harness: QemuHarness, vm: VmProcess, text: str) -> Awaitable[str]:
    return tiny_guest.printed(harness.driver.console(vm), text, seconds=PATIENCE.total_seconds())


def volume(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.truncate(path, SIZE_MIB * 2**20)
    return path


def allocated(directory: Path) -> int:
    return sum(path.stat().st_blocks for path in directory.rglob("*") if path.is_file()) * 512


async def test_a_clone_finds_its_volume_and_what_it_writes_stays(
    harness: QemuHarness, slotted: Snapshot, tmp_path: Path
) -> None:
    image = volume(tmp_path / "volume", b"content-of-the-volume\n")
    vm = await clone(harness, slotted, "clone", Slot(SIZE_MIB, image), "second-disk")
    await printed(harness, vm, "\ncontent-of-the-volume")
    await harness.tell(vm, "write-second")
    await printed(harness, vm, "\ndone")
    await harness.driver.stop(vm)
    with image.open("rb") as file:
        assert file.readline() == b"written-to-it\n"
    assert image.stat().st_blocks * 512 < 2**20, "it keeps its holes"
    again = await clone(harness, slotted, "again", Slot(SIZE_MIB, image), "second-disk")
    await printed(harness, again, "\nwritten-to-it")


async def test_an_empty_slot_keeps_nothing_and_takes_no_room(
    harness: QemuHarness, slotted: Snapshot, tmp_path: Path
) -> None:
    vm = await clone(harness, slotted, "clone", EMPTY, "write-second")
    await printed(harness, vm, "\ndone")
    await harness.driver.stop(vm)
    assert allocated(tmp_path) < 2**20


async def test_a_machine_is_saved_and_goes_on_with_its_volume(
    harness: QemuHarness, slotted: Snapshot, tmp_path: Path
) -> None:
    slot = Slot(SIZE_MIB, volume(tmp_path / "volume", b"content-of-the-volume\n"))
    vm = await clone(harness, slotted, "clone", slot, "clone")
    await harness.hears(vm, "template", "clone")
    saved = await harness.driver.save(vm, slotted, tmp_path / "saved", deadline=PATIENCE)
    await harness.driver.stop(vm)
    again = await clone(harness, saved, "again", slot, "second-disk")
    await printed(harness, again, "\ncontent-of-the-volume")
