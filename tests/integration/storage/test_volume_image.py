# ruff: noqa: ASYNC221 - short-lived tools, and nothing else runs on the loop meanwhile.
"""Volumes as ext4's own tools see them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance.storage.disks import LocalDiskStore


@pytest.mark.parametrize("size_mib", [64, 1024, 10 * 1024])
async def test_a_volume_is_a_sound_journalled_ext4_that_its_user_may_write(tmp_path: Path, size_mib: int) -> None:
    volume = tmp_path / "volume"
    await LocalDiskStore(tmp_path / "uppers").create_volume(volume, size_mib=size_mib)
    subprocess.run(["e2fsck", "-fn", volume], check=True, capture_output=True)
    listed = subprocess.run(["debugfs", "-R", "ls -l /", volume], check=True, capture_output=True, text=True).stdout
    entries = {line.split()[-1]: line.split() for line in listed.splitlines() if line.strip()}
    assert set(entries) == {".", ".."}, "nothing that its user has not put there"
    assert entries["."][1] == "40777"
    assert entries["."][3:5] == ["1000", "1000"]
    superblock = subprocess.run(["dumpe2fs", "-h", volume], check=True, capture_output=True, text=True).stdout
    assert "has_journal" in superblock
    assert "metadata_csum" in superblock
