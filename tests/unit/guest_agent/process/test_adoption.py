"""A made-up /proc: what is an orphan of ours, and what is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from guest_agent.process.adoption import Orphan, find_orphans
from guest_agent.process.wire import ProcessConfig


def add_process(
    proc: Path,
    pid: int,
    *,
    parent: int = 1,
    session: int | None = None,
    stdout: str = "pipe:[7]",
    flags: int = os.O_RDWR,
) -> None:
    process = proc / str(pid)
    (process / "fd").mkdir(parents=True)
    (process / "fdinfo").mkdir()
    (process / "stat").write_text(f"{pid} (a ) name) S {parent} {pid} {session or pid} 0 -1")
    (process / "cmdline").write_bytes(b"/bin/sh\0-c\0echo \xff\0")
    (process / "cwd").symlink_to("/work")
    (process / "fd/1").symlink_to(stdout)
    (process / "fdinfo/1").write_text(f"pos:\t0\nflags:\t0{flags | os.O_CLOEXEC:o}\nmnt_id:\t14\n")


def test_an_orphan_is_described_by_what_proc_says(tmp_path: Path) -> None:
    add_process(tmp_path, 42)
    (tmp_path / "self").symlink_to("42")
    assert find_orphans(tmp_path) == [Orphan(42, ProcessConfig("/bin/sh", ("-c", "echo \ufffd"), {}, "/work"))]


@pytest.mark.parametrize(
    "different",
    [{"parent": 7}, {"session": 7}, {"stdout": "/var/log/x"}, {"stdout": "socket:[7]"}, {"flags": os.O_WRONLY}],
)
def test_whatever_else_runs_is_left_alone(tmp_path: Path, different: dict[str, Any]) -> None:
    add_process(tmp_path, 42, **different)
    assert find_orphans(tmp_path) == []


def test_a_process_that_vanishes_meanwhile_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "41").mkdir()
    (tmp_path / "43").mkdir()
    (tmp_path / "43/stat").write_text("")
    add_process(tmp_path, 42)
    assert [orphan.pid for orphan in find_orphans(tmp_path)] == [42]
