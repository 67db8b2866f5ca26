"""Finding the processes of an agent that died.

Its successor takes them over: they are listed, can be followed and signalled, and what they wrote in between is still
in their pipes. What cannot be kept: their stdin and terminals ended with the agent, and only a parent learns an exit
code.

No record is kept for this, so starting a process costs nothing extra. A program that the agent started is known by its
stdout: a pipe it can both read and write (see `launch`), in a session of its own, with process 1 as its new parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from guest_agent.process.events import Channel, Event
from guest_agent.process.registry import Entry
from guest_agent.process.running import Process
from guest_agent.process.wire import ProcessConfig

_INIT = 1


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process whose agent is gone."""

    pid: int
    config: ProcessConfig


def find_orphans(proc: Path = Path("/proc")) -> list[Orphan]:
    """Return the orphans, by pid."""
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    orphans = []
    for pid in pids:
        # It may end while it is looked at.
        with suppress(OSError, ValueError, IndexError):
            if _is_orphan(proc / str(pid), pid):
                orphans.append(Orphan(pid, _config(proc / str(pid))))
    return orphans


def _is_orphan(process: Path, pid: int) -> bool:
    # After the name, which may hold anything: state, parent, group, session.
    _state, parent, _group, session = (process / "stat").read_text(errors="replace").rpartition(") ")[2].split()[:4]
    return int(parent) == _INIT and int(session) == pid and is_readable_pipe(process / "fd/1")


def is_readable_pipe(descriptor: Path) -> bool:
    """Return whether /proc/<pid>/fd/<number> is an unnamed pipe that is open for reading and writing."""
    if not descriptor.readlink().name.startswith("pipe:"):
        return False
    information = descriptor.parent.parent / "fdinfo" / descriptor.name
    fields = dict(line.split(":", 1) for line in information.read_text().splitlines())
    return int(fields["flags"], 8) & os.O_ACCMODE == os.O_RDWR


def _config(process: Path) -> ProcessConfig:
    cmd, *arguments = (process / "cmdline").read_bytes().decode("utf-8", "replace").removesuffix("\0").split("\0")
    return ProcessConfig(cmd, tuple(arguments), {}, str((process / "cwd").readlink()))


def adopt(
    orphans: list[Orphan], on_end: Callable[[Process], None], listen_to: Callable[[int], Callable[[Event], None]]
) -> Iterator[Entry]:
    """Yield an entry for each orphan that is still there. Must be called within the event loop."""
    taken: set[int] = set()
    for orphan in orphans:
        outputs: dict[int, Channel] = {}
        try:
            for number, channel in ((1, Channel.STDOUT), (2, Channel.STDERR)):
                path = Path(f"/proc/{orphan.pid}/fd/{number}")
                # A program and one it left behind may write to the same pipe; it is read once.
                if is_readable_pipe(path) and (inode := path.stat().st_ino) not in taken:
                    taken.add(inode)
                    outputs[os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)] = channel
            process = Process(
                orphan.pid,
                outputs=outputs,
                stdin=None,
                terminal=None,
                on_end=on_end,
                on_event=listen_to(orphan.pid),
            )
        except OSError:
            for descriptor in outputs:
                os.close(descriptor)
            continue
        yield Entry(process, orphan.config, tag=None)
