"""What the kernel says of a process that was started confined."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from appliance.storage.confinement import WORKER_UID, Ceiling, confined

CEILING = Ceiling(address_space_bytes=2**30, cpu_s=1, file_bytes=4096, tasks=1)


def status_of(argv: list[str]) -> dict[str, str]:
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)


@pytest.mark.root
def test_it_is_nobody_and_can_become_nothing() -> None:
    status = status_of(confined(["cat", "/proc/self/status"], CEILING))
    assert status["Uid"].split() == [str(WORKER_UID)] * 4
    assert status["Gid"].split() == [str(WORKER_UID)] * 4
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_it_cannot_write_a_large_file(searchable_path: Path) -> None:
    target = searchable_path / "f"
    target.touch()
    target.chmod(0o666)
    ended = subprocess.run(
        confined(["dd", "if=/dev/zero", f"of={target}", "bs=8192", "count=2"], CEILING),
        check=False,
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGXFSZ or b"File too large" in ended.stderr
    assert target.stat().st_size <= 4096


@pytest.mark.root
def test_it_cannot_fork() -> None:
    forking = subprocess.run(
        confined(["python3", "-c", "import os; os.fork()"], CEILING), check=False, capture_output=True
    )
    assert b"BlockingIOError" in forking.stderr


def test_it_cannot_take_more_memory_or_time() -> None:
    hungry = subprocess.run(confined(["python3", "-c", "bytearray(2**31)"], CEILING), check=False, capture_output=True)
    assert b"MemoryError" in hungry.stderr
    endless = subprocess.run(
        confined(["python3", "-c", "while True: pass"], CEILING), check=False, capture_output=True, timeout=60
    )
    assert endless.returncode == -signal.SIGXCPU
