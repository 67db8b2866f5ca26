"""When the time of each running sandbox is up."""

from __future__ import annotations

import asyncio
from datetime import datetime

from appliance.common.clock import Clock
from appliance.domain.ids import SandboxId


class Timers:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._handles: dict[SandboxId, asyncio.TimerHandle] = {}
        self.due: asyncio.Queue[SandboxId] = asyncio.Queue()
        """Sandboxes whose time was up, in that order; it may have been moved since."""

    def arm(self, sandbox_id: SandboxId, end_at: datetime) -> None:
        """Replace the sandbox's timer."""
        self.cancel(sandbox_id)
        # The loop's clock is monotonic: a step of the wall clock neither ends a sandbox early nor keeps it.
        remaining = max(0.0, (end_at - self._clock.now()).total_seconds())
        self._handles[sandbox_id] = asyncio.get_running_loop().call_later(remaining, self._expire, sandbox_id)

    def cancel(self, sandbox_id: SandboxId) -> None:
        timer = self._handles.pop(sandbox_id, None)
        if timer is not None:
            timer.cancel()

    def armed(self, sandbox_id: SandboxId) -> bool:
        """Return whether the sandbox has time left."""
        return sandbox_id in self._handles

    def _expire(self, sandbox_id: SandboxId) -> None:
        self._handles.pop(sandbox_id, None)
        self.due.put_nowait(sandbox_id)
