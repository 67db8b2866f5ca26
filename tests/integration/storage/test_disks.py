# ruff: noqa: ASYNC221 - short-lived tools, and nothing else runs on the loop meanwhile.
"""Uppers as ext4's own tools see them, and what a copy costs."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.domain.errors import DiskFull
from appliance.storage import disks
from appliance.storage.disks import LocalDiskStore


@pytest.fixture
def store(tmp_path: Path) -> LocalDiskStore:
    return LocalDiskStore(tmp_path / "uppers")


@pytest.mark.parametrize("size_mib", [1, 16, 511, 1024, 20 * 1024])
async def test_an_upper_of_any_size_is_a_sound_ext4(tmp_path: Path, store: LocalDiskStore, size_mib: int) -> None:
    upper = tmp_path / "upper"
    await store.create_upper(upper, size_mib=size_mib)
    subprocess.run(["e2fsck", "-fn", upper], check=True, capture_output=True)
    listed = subprocess.run(["debugfs", "-R", "ls -l /", upper], check=True, capture_output=True, text=True).stdout
    modes = {line.split()[-1]: line.split()[1] for line in listed.splitlines() if line.strip()}
    assert (modes["upper"], modes["work"]) == ("40755", "40755")
    assert upper.stat().st_blocks * 512 < 512 * 1024


async def test_the_guest_has_no_inode_tables_to_zero(tmp_path: Path, store: LocalDiskStore) -> None:
    upper = tmp_path / "upper"
    await store.create_upper(upper, size_mib=1024)
    groups = subprocess.run(["dumpe2fs", upper], check=True, capture_output=True, text=True).stdout
    assert groups.count("ITABLE_ZEROED") == len(re.findall(r"^Group \d+:", groups, re.MULTILINE)) > 0


async def test_many_uppers_of_a_new_size_can_be_made_at_once(tmp_path: Path, store: LocalDiskStore) -> None:
    uppers = [tmp_path / f"upper{n}" for n in range(8)]
    await asyncio.gather(*(store.create_upper(upper, size_mib=64) for upper in uppers))
    assert len({upper.read_bytes() for upper in uppers}) == 1
    assert [path.name for path in (tmp_path / "uppers").iterdir()] == ["64.ext4"]


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.root
async def test_a_disk_can_be_copied_to_another_filesystem(
    tmp_path: Path, small_filesystem: Path, store: LocalDiskStore
) -> None:
    source = tmp_path / "source"
    await store.create_upper(source, size_mib=256)
    await store.clone_upper(source, small_filesystem / "clone")
    assert (small_filesystem / "clone").stat().st_blocks * 512 < 512 * 1024
    subprocess.run(["cmp", source, small_filesystem / "clone"], check=True)


@pytest.mark.root
async def test_a_copy_that_does_not_fit_leaves_nothing(
    tmp_path: Path, small_filesystem: Path, store: LocalDiskStore
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(6 * 2**20))
    with pytest.raises(DiskFull):
        await store.clone_upper(source, small_filesystem / "clone")
    status = os.statvfs(small_filesystem)
    assert status.f_bfree == status.f_blocks


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    image, directory = tmp_path / "xfs.img", tmp_path / "xfs"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(320 * 2**20)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.root
@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs xfsprogs")
async def test_where_the_filesystem_can_a_clone_shares_its_blocks(xfs: Path) -> None:
    store = LocalDiskStore(xfs / "uppers")
    await store.create_upper(xfs / "source", size_mib=512)
    content = os.urandom(50 * 2**20)
    with (xfs / "source").open("r+b") as file:
        file.seek(100 * 2**20)
        file.write(content)
    subprocess.run(["sync", "-f", xfs], check=True)
    free = os.statvfs(xfs).f_bavail
    for n in range(20):
        await store.clone_upper(xfs / "source", xfs / f"clone{n}")
    subprocess.run(["sync", "-f", xfs], check=True)
    assert (free - os.statvfs(xfs).f_bavail) * os.statvfs(xfs).f_frsize < 2**20
    with (xfs / "clone19").open("rb") as file:
        file.seek(100 * 2**20)
        assert file.read(len(content)) == content


async def test_without_help_of_the_kernel_a_copy_is_the_same(
    tmp_path: Path, store: LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(disks._CANNOT_COPY_IN_KERNEL[0], "not here")

    source = tmp_path / "source"
    await store.create_upper(source, size_mib=64)
    with source.open("r+b") as file:
        file.seek(40 * 2**20 + 5)
        file.write(os.urandom(3 * 2**20))
    monkeypatch.setattr(os, "copy_file_range", refuse)
    await store.clone_upper(source, tmp_path / "clone")
    assert source.read_bytes() == (tmp_path / "clone").read_bytes()
    assert (tmp_path / "clone").stat().st_blocks <= source.stat().st_blocks + 16
