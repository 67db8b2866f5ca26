"""What the node does by itself when a sandbox's time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from appliance.common.supervisor import Supervisor
from appliance.contracts.node import EndReason, OnTimeout
from appliance.cubelet.services.pausing import Pausing
from appliance.cubelet.services.registry import Registry
from appliance.cubelet.services.running import Running
from appliance.cubelet.services.timers import Timers
from appliance.domain.errors import CubeError, DiskFull
from appliance.domain.ids import SandboxId

log = structlog.get_logger()

_PAUSES_TRIED = 3


class Expiry:
    """Ends sandboxes, or pauses them. `tell` is called when CubeMaster has something to learn from the next beat."""

    def __init__(
        self,
        *,
        registry: Registry,
        running: Running,
        pausing: Pausing,
        timers: Timers,
        supervisor: Supervisor,
        tell: Callable[[], None],
        retry_s: float,
    ) -> None:
        self._registry = registry
        self._running = running
        self._pausing = pausing
        self._timers = timers
        self._supervisor = supervisor
        self._tell = tell
        self._retry_s = retry_s

    async def run(self) -> None:
        while True:
            sandbox_id = await self._timers.due.get()
            self._supervisor.spawn(self._expire(sandbox_id), name=f"expire-{sandbox_id}")

    async def _expire(self, sandbox_id: SandboxId) -> None:
        record = self._registry.find(sandbox_id)
        if record is None or record.sandbox is None:
            return
        if record.sandbox.on_timeout is OnTimeout.KILL:
            await self._running.end(sandbox_id, EndReason.TIMEOUT, report=True, if_due=True)
            return
        failure = await self._pause(sandbox_id, memory=record.sandbox.on_timeout is OnTimeout.PAUSE)
        if failure is None:
            self._tell()
            return
        # It may not run on for ever because of a disk that is full.
        reason = EndReason.DISK_FULL if isinstance(failure, DiskFull) else EndReason.TIMEOUT
        detail = f"its time was up, and it could not be paused: {failure.message}"
        await self._running.end(sandbox_id, reason, detail, report=True, if_due=True)

    async def _pause(self, sandbox_id: SandboxId, *, memory: bool) -> CubeError | None:
        """Return why it cannot be paused, after some tries; None where it is paused, or its time was moved."""
        failure: CubeError | None = None
        for attempt in range(_PAUSES_TRIED):
            if attempt:
                await asyncio.sleep(self._retry_s)
            try:
                await self._pausing.pause(sandbox_id, memory=memory, if_due=True)
            except CubeError as error:
                log.warning("pause_at_timeout_failed", sandbox_id=sandbox_id, error=error.message)
                failure = error
            else:
                return None
        return failure
