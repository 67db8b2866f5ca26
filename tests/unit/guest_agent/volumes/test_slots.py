from __future__ import annotations

import os
from pathlib import Path

import pytest

from guest_agent.errors import HttpError
from guest_agent.volumes.slots import GuestSlots


def add_disk(blocks: Path, name: str, *, read_only: bool, number: str) -> None:
    (blocks / name).mkdir(parents=True)
    (blocks / name / "ro").write_text(f"{int(read_only)}\n")
    (blocks / name / "dev").write_text(f"{number}\n")


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    """A machine with an agent's disk, a writable one, a layer and two slots; the first is `mounted` at tmp_path."""
    device = tmp_path.stat().st_dev
    blocks = tmp_path / "block"
    add_disk(blocks, "vda", read_only=True, number="254:0")
    add_disk(blocks, "vdb", read_only=False, number="254:16")
    add_disk(blocks, "vdc", read_only=True, number="254:32")
    add_disk(blocks, "vdd", read_only=False, number=f"{os.major(device)}:{os.minor(device)}")
    add_disk(blocks, "vde", read_only=False, number="254:64")
    add_disk(blocks, "loop0", read_only=False, number="7:0")
    return blocks


def test_a_disk_that_is_mounted_already_is_left_alone(blocks: Path, tmp_path: Path) -> None:
    GuestSlots(blocks, tmp_path / "no-devices").mount(0, str(tmp_path / "made" / "for" / "it"))
    assert (tmp_path / "made" / "for" / "it").is_dir()


def test_only_what_is_mounted_is_opened(blocks: Path, tmp_path: Path) -> None:
    slots = GuestSlots(blocks)
    os.close(slots.open(0, str(tmp_path)))
    for slot, path in ((1, tmp_path), (0, Path("/proc")), (0, tmp_path / "absent")):
        with pytest.raises(HttpError, match="no longer mounted") as refused:
            slots.open(slot, str(path))
        assert refused.value.status == 409


def test_a_disk_that_cannot_be_mounted_is_a_clear_error(blocks: Path, tmp_path: Path) -> None:
    with pytest.raises(HttpError, match=r"cannot mount the volume at '.*': No such file"):
        GuestSlots(blocks, tmp_path / "no-devices").mount(1, str(tmp_path / "data"))
    with pytest.raises(HttpError, match="has 2 slots"):
        GuestSlots(blocks).mount(2, str(tmp_path / "data"))


def test_what_is_not_mounted_is_released_already(blocks: Path, tmp_path: Path) -> None:
    GuestSlots(blocks).release(1, str(tmp_path))
