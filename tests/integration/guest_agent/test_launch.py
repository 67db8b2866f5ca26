from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from guest_agent.process.launch import launch_on_terminal, launch_with_pipes
from guest_agent.process.oom import own_score
from guest_agent.process.running import Process
from guest_agent.process.spawn import Command
from guest_agent.process.terminal import TerminalSize
from guest_agent.users import ROOT

pytestmark = pytest.mark.root
SLEEP = Command(("/bin/sleep", "100"), {}, "/", ROOT)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def on_end(_process: Process) -> None:
    return None


LAUNCHES: list[Callable[[], Process]] = [
    lambda: launch_with_pipes(SLEEP, stdin=True, on_end=on_end),
    lambda: launch_on_terminal(SLEEP, TerminalSize(80, 24), on_end=on_end),
]


@pytest.mark.parametrize("launch", LAUNCHES, ids=["pipes", "terminal"])
async def test_a_process_that_cannot_be_watched_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch, launch: Callable[[], Process]
) -> None:
    started: list[int] = []

    def no_descriptor_left(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    own_score()
    monkeypatch.setattr(os, "pidfd_open", no_descriptor_left)
    before = descriptors()
    with pytest.raises(OSError, match="Too many open files"):
        launch()
    assert descriptors() == before
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
