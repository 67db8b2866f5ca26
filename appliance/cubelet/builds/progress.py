"""A build of this Cubelet's life: what CubeMaster copies into its rows while the build runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from appliance.common.clock import Clock
from appliance.contracts.node import BuildLogEntry, BuildRequest, BuildState
from appliance.cubelet.builds.steps import Step

BASE, FINALIZE = "base", "finalize"
"""What E2B's clients call what comes before the first step and after the last; steps in between are numbered from 1."""

MAX_GUEST_ENTRIES = 10_000
MAX_GUEST_CHARACTERS = 2 * 2**20
"""What commands in the guest may write into the log of one build; it is kept in memory and in the database."""


@dataclass(slots=True)
class Build:
    """Its state and its log, which only grows."""

    request: BuildRequest
    steps: tuple[Step, ...] | None
    """None builds an image as it is."""
    clock: Clock
    disk_size_mib: int = 0
    """Known once its origin is."""
    state: BuildState = BuildState.BUILDING
    logs: list[BuildLogEntry] = field(default_factory=list)
    step: str = BASE
    reason: str | None = None
    work: asyncio.Task[None] | None = None
    _entries_left: int = MAX_GUEST_ENTRIES
    _characters_left: int = MAX_GUEST_CHARACTERS

    def say(self, message: str, *, level: str = "info") -> None:
        entry = BuildLogEntry(timestamp=self.clock.now(), level=level, message=message, step=self.step)
        self.logs.append(entry)

    def quote(self, message: str, *, level: str = "info") -> None:
        """Say what a guest wrote, until it has written too much."""
        if self._entries_left < 0:
            return
        self._entries_left -= 1
        self._characters_left -= len(message)
        if self._entries_left < 0 or self._characters_left < 0:
            self._entries_left = -1
            self.say("the commands of this build write too much; no more of it is kept", level="warn")
            return
        self.say(message, level=level)

    def fail(self, reason: str) -> None:
        self.state, self.reason = BuildState.ERROR, reason
        self.say(reason, level="error")
