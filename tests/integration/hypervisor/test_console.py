from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.hypervisor import console, sockets
from appliance.hypervisor.console import SEGMENT_BYTES, ConsoleLog
from tests.support.waiting import eventually


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[tuple[socket.socket, ConsoleLog]]:
    """The VMM's end of a console, and the log that follows it."""
    with sockets.listen(tmp_path / "socket") as listener:
        log = await ConsoleLog.follow(tmp_path / "socket", tmp_path / "console.log")
        end, _ = listener.accept()
    with end:
        yield end, log
    log.close()
    # Let the event loop close the transport.
    await log.drained()


def size_on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("console.log*"))


async def test_output_is_in_the_log(guest: tuple[socket.socket, ConsoleLog], tmp_path: Path) -> None:
    end, _ = guest
    end.send(b"Linux version 6.1\n")
    await eventually(lambda: console.tail(tmp_path / "console.log") == "Linux version 6.1\n")


async def test_last_words_are_in_the_log_once_drained(guest: tuple[socket.socket, ConsoleLog], tmp_path: Path) -> None:
    end, log = guest
    end.send(b"first\n")
    await asyncio.sleep(0)
    end.send(b"Kernel panic")
    end.close()
    async with asyncio.timeout(10):
        await log.drained()
    assert console.tail(tmp_path / "console.log") == "first\nKernel panic"


async def test_log_of_a_flood_is_bounded_and_ends_with_the_latest(
    guest: tuple[socket.socket, ConsoleLog], tmp_path: Path
) -> None:
    end, log = guest
    await asyncio.to_thread(end.sendall, b"x" * (5 * SEGMENT_BYTES) + b"the end")
    end.close()
    async with asyncio.timeout(30):
        await log.drained()
    assert SEGMENT_BYTES <= size_on_disk(tmp_path) <= 2 * SEGMENT_BYTES
    assert console.tail(tmp_path / "console.log", 7) == "the end"


async def test_later_follower_appends(guest: tuple[socket.socket, ConsoleLog], tmp_path: Path) -> None:
    end, log = guest
    end.send(b"before ")
    await eventually(lambda: console.tail(tmp_path / "console.log") == "before ")
    log.close()
    await log.drained()
    with sockets.listen(tmp_path / "second") as listener:
        later = await ConsoleLog.follow(tmp_path / "second", tmp_path / "console.log")
        other_end, _ = listener.accept()
    with other_end:
        other_end.send(b"after")
    async with asyncio.timeout(10):
        await later.drained()
    assert console.tail(tmp_path / "console.log") == "before after"


def test_removed_log_leaves_no_segment(tmp_path: Path) -> None:
    for name in ("console.log", "console.log.1"):
        (tmp_path / name).touch()
    console.remove(tmp_path / "console.log")
    console.remove(tmp_path / "console.log")
    assert list(tmp_path.iterdir()) == []


def test_absent_log_is_empty(tmp_path: Path) -> None:
    assert console.tail(tmp_path / "console.log") == ""
