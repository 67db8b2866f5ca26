"""What a process says about itself, in order: Started, Output and Keepalive as they come, Ended."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import StrEnum


class Channel(StrEnum):
    """Where output was written."""

    STDOUT = "stdout"
    STDERR = "stderr"
    PTY = "pty"


@dataclass(frozen=True, slots=True)
class Started:
    pid: int


@dataclass(frozen=True, slots=True)
class Output:
    channel: Channel
    data: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    pass


@dataclass(frozen=True, slots=True)
class Ended:
    """`exit_code` is -1 where a signal ended the process; `error` repeats `status` unless the code is 0."""

    exit_code: int
    exited: bool
    status: str

    @property
    def error(self) -> str | None:
        return None if self.exit_code == 0 else self.status


UNKNOWN_END = Ended(-1, exited=False, status="exit status unknown: the agent was restarted meanwhile")

Event = Started | Output | Keepalive | Ended

_SIGNAL_NAMES = {
    signal.SIGHUP: "hangup",
    signal.SIGINT: "interrupt",
    signal.SIGQUIT: "quit",
    signal.SIGILL: "illegal instruction",
    signal.SIGTRAP: "trace/breakpoint trap",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception",
    signal.SIGKILL: "killed",
    signal.SIGUSR1: "user defined signal 1",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGUSR2: "user defined signal 2",
    signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock",
    signal.SIGTERM: "terminated",
}


def ended(wait_status: int) -> Ended:
    """Return the event for a status of waitpid, worded as E2B's agent words it."""
    if os.WIFSIGNALED(wait_status):
        number = os.WTERMSIG(wait_status)
        name = _SIGNAL_NAMES.get(number, f"signal {number}")  # type: ignore[call-overload]
        core = " (core dumped)" if os.WCOREDUMP(wait_status) else ""
        return Ended(-1, exited=False, status=f"signal: {name}{core}")
    code = os.WEXITSTATUS(wait_status)
    return Ended(code, exited=True, status=f"exit status {code}")
