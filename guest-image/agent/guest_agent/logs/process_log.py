"""What one process tells the log: that it began, what it writes, how it ended."""

from __future__ import annotations

from guest_agent.logs.ring import LogRing
from guest_agent.process.events import Ended, Event, Output
from guest_agent.process.wire import ProcessConfig

LOGGER = "process"
_MAX_COMMAND = 1024


class ProcessLog:
    """Called with each event of a process. Variables are never logged: that is where secrets are."""

    def __init__(self, ring: LogRing) -> None:
        self._ring = ring
        self._pid = 0

    def started(self, pid: int, config: ProcessConfig, tag: str | None) -> None:
        self._pid = pid
        command = " ".join((config.cmd, *config.args))[:_MAX_COMMAND]
        fields = {"pid": str(pid), "cmd": command}
        if tag is not None:
            fields["tag"] = tag[:_MAX_COMMAND]
        self._ring.note("info", LOGGER, f"Process started: {command}", **fields)

    def adopted(self, pid: int) -> None:
        """The process was there before this agent."""
        self._pid = pid
        self._ring.note("warn", LOGGER, "Process taken over from an agent that ended", pid=str(pid))

    def __call__(self, event: Event) -> None:
        if isinstance(event, Output):
            self._ring.piece(self._pid, event.channel, event.data)
        elif isinstance(event, Ended):
            fields = {"pid": str(self._pid), "exit_code": str(event.exit_code), "status": event.status}
            self._ring.note("info", LOGGER, f"Process ended: {event.status}", **fields)
