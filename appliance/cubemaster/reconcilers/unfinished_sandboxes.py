"""Finishes what a dead CubeMaster or an unreachable node left half done: creates, pauses and resumes that nobody waits
for, and kills."""

from __future__ import annotations

from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.cubemaster.services.settling import Settling
from appliance.domain.errors import CubeError
from appliance.domain.sandbox import CHANGING, Sandbox, SandboxState

log = structlog.get_logger()


class UnfinishedSandboxReconciler:
    """`call_limit` is longer than any call to a node takes: a change older than that has no call behind it."""

    def __init__(
        self,
        database: Database,
        sandboxes: SandboxService,
        settling: Settling,
        clock: Clock,
        *,
        call_limit: timedelta,
    ) -> None:
        self._database = database
        self._sandboxes = sandboxes
        self._settling = settling
        self._clock = clock
        self._call_limit = call_limit

    async def step(self) -> None:
        began = await self._database.transact(lambda uow: uow.sandboxes.in_state(SandboxState.CREATING, *CHANGING))
        given_up_before = self._clock.now() - self._call_limit
        for sandbox in began:
            if (sandbox.changing_since or sandbox.started_at) < given_up_before:
                await self._try(sandbox)
        for sandbox in await self._database.transact(lambda uow: uow.sandboxes.in_state(SandboxState.KILLING)):
            await self._try(sandbox)

    async def _try(self, sandbox: Sandbox) -> None:
        try:
            if sandbox.state is SandboxState.KILLING:
                await self._sandboxes.finish_kill(sandbox)
            elif sandbox.state in CHANGING:
                await self._settling.ask(sandbox)
            else:
                await self._sandboxes.abandon(sandbox, "its create was interrupted")
        except CubeError as error:
            log.info("sandbox_still_unfinished", sandbox_id=sandbox.sandbox_id, error=error.message)
