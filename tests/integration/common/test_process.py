from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.common.process import CommandFailed, run
from appliance.domain.errors import DeadlineExceeded
from appliance.hypervisor.process import start_time_ticks
from tests.support.waiting import eventually

PATIENCE = timedelta(seconds=30)
SHORT = timedelta(milliseconds=200)


async def gone(pid: int) -> None:
    """Return once `pid` has ended, or fail."""
    await eventually(lambda: start_time_ticks(pid) is None)


async def test_output_and_error_output_are_returned() -> None:
    completed = await run(["sh", "-c", "echo out; echo err >&2"], deadline=PATIENCE)
    assert (completed.stdout, completed.stderr) == (b"out\n", b"err\n")


async def test_input_is_fed_and_closed() -> None:
    data = b"x" * 300_000
    completed = await run(["cat"], deadline=PATIENCE, stdin=data)
    assert completed.stdout == data


async def test_program_may_ignore_its_input() -> None:
    completed = await run(["true"], deadline=PATIENCE, stdin=b"x" * 1_000_000)
    assert completed.stdout == b""


async def test_failure_tells_status_and_error_output() -> None:
    with pytest.raises(CommandFailed, match="exited with 3: no such thing") as failure:
        await run(["sh", "-c", "echo no such thing >&2; exit 3"], deadline=PATIENCE)
    assert failure.value.returncode == 3
    assert failure.value.argv[0] == "sh"


async def test_absent_program_is_a_failure() -> None:
    with pytest.raises(CommandFailed, match="could not be started"):
        await run(["/nonexistent/program"], deadline=PATIENCE)


@pytest.mark.parametrize("stream", ["1", "2"])
async def test_program_that_prints_too_much_is_ended(stream: str) -> None:
    with pytest.raises(CommandFailed, match="more than 1000 bytes"):
        await run(["sh", "-c", f"yes >&{stream}"], deadline=PATIENCE, max_output_bytes=1000)


async def test_late_program_is_ended_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded):
        await run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], deadline=SHORT)
    await gone(int(pid_file.read_text()))


async def test_child_that_outlives_the_program_does_not_outlive_the_deadline(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded):
        await run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}"], deadline=SHORT)
    await gone(int(pid_file.read_text()))


async def test_cancelled_call_ends_the_program(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    task = asyncio.ensure_future(run([sys.executable, "-c", code], deadline=PATIENCE))
    await eventually(lambda: pid_file.exists() and pid_file.read_text() != "")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int(pid_file.read_text()))
