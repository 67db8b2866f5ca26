"""VMM processes: started so that they outlive Cubelet, known by more than a pid, watched until they end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from appliance.domain.errors import VmmFailure
from appliance.hypervisor.base import VmProcess

_DELETED = " (deleted)"

_libc = ctypes.CDLL(None, use_errno=True)
_CLOSE_RANGE_CLOEXEC = 4
_LAST_FD = 2**32 - 1


def spawn(argv: Sequence[str], *, inherit: Iterable[int], stderr: int) -> int:
    """Start `argv` in a session of its own and return its pid. Only `inherit` and the standard streams stay open.

    posix_spawn does not copy Cubelet's page tables, and returns once the program is executing.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise VmmFailure(f"{argv[0]} is not installed")
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
    ]
    _close_on_exec()
    # Duplicating a descriptor onto itself is how posix_spawn is told to keep it over exec.
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in inherit]
    try:
        return os.posix_spawn(
            program,
            list(argv),
            {"PATH": os.defpath},
            file_actions=actions,
            setsid=True,
            # Python ignores SIGPIPE and servers block signals; neither is the VMM's business.
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
    except OSError as error:
        raise VmmFailure(f"{argv[0]} could not be started: {error.strerror}") from error


def _close_on_exec() -> None:
    """Keep every descriptor of ours from being inherited: one of another sandbox's disk or tap would be its undoing.

    Python opens files so, but libraries need not, and some make a descriptor inheritable to hand it to one child.
    """
    if _libc.close_range(3, _LAST_FD, _CLOSE_RANGE_CLOEXEC) != 0:
        raise OSError(ctypes.get_errno(), "close_range")


def start_time_ticks(pid: int) -> int | None:
    """Return when `pid` was started, in clock ticks since boot; None where it does not exist or has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name, in parentheses, and may contain anything.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def executable(pid: int) -> str | None:
    """Return the path of the program that `pid` runs, also when an upgrade has since replaced the file."""
    try:
        return str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(_DELETED)
    except (FileNotFoundError, ProcessLookupError):
        return None


class ProcessWatch:
    """Holds a process by pidfd, so that it cannot be mistaken for another, and notices when it ends.

    Also reaps it where it is our child: a VMM started by a former Cubelet is reaped by init.
    """

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError where `pid` does not exist."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        self._loop.add_reader(self._fd, self._on_exit)

    @classmethod
    def of(cls, vm: VmProcess) -> ProcessWatch | None:
        """Return a watch on exactly `vm`; None where it has ended or its pid is now another's."""
        try:
            watch = cls(vm.pid)
        except ProcessLookupError:
            return None
        # Looked at after the pidfd was opened: what is true of the pid now is true of the process we hold.
        if start_time_ticks(vm.pid) == vm.start_time_ticks and executable(vm.pid) == vm.executable:
            return watch
        watch._reap()
        watch.close()
        return None

    @property
    def exited(self) -> bool:
        return self._exited.is_set()

    async def wait(self) -> None:
        """Return once the process has ended."""
        await self._exited.wait()

    async def ended_within(self, patience: timedelta) -> bool:
        """Return whether the process has ended, as soon as it has, else after `patience`."""
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await self.wait()
        except TimeoutError:
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL. Processes that have ended are success."""
        if not self.exited:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self) -> None:
        """Stop watching; the process is not touched. Safe to repeat."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._fd)
        self._reap()
        self._exited.set()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
