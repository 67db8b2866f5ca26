from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.domain.errors import DiskFull, VmmFailure
from appliance.hypervisor.new_directory import new_directory


def found(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


async def test_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    async with new_directory(tmp_path / "saved") as directory:
        (directory / "file").write_text("content")
        assert "saved" not in found(tmp_path)
    assert found(tmp_path) == {"saved", "saved/file"}
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o700


async def test_failure_leaves_nothing(tmp_path: Path) -> None:
    async def fail() -> None:
        async with new_directory(tmp_path / "saved") as directory:
            (directory / "file").write_text("content")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert found(tmp_path) == set()


async def test_one_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def make() -> None:
        async with new_directory(tmp_path / "saved") as directory:
            (directory / "file").write_text("content")
            begun.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        making = group.create_task(make())
        await begun.wait()
        making.cancel()
    assert making.cancelled()
    assert found(tmp_path) == set()


async def test_what_a_crash_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "saved.partial").mkdir()
    (tmp_path / "saved.partial" / "old").touch()
    async with new_directory(tmp_path / "saved"):
        pass
    assert found(tmp_path) == {"saved"}


async def test_one_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "file").touch()
    with pytest.raises(VmmFailure, match="exists"):
        async with new_directory(tmp_path / "saved"):
            pytest.fail("nothing may be begun")
    assert found(tmp_path) == {"saved", "saved/file"}


async def test_full_disk_is_told_as_such(tmp_path: Path) -> None:
    async def fill() -> None:
        async with new_directory(tmp_path / "saved"):
            Path("/dev/full").write_text("x")  # noqa: ASYNC240 - a device that refuses at once

    with pytest.raises(DiskFull):
        await fill()
    assert found(tmp_path) == set()
