"""Finishes what a dead CubeMaster or an unreachable node left half done: creates nobody waits for, and kills."""

from __future__ import annotations

from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.domain.errors import CubeError
from appliance.domain.sandbox import Sandbox, SandboxState

log = structlog.get_logger()


class UnfinishedSandboxReconciler:
    """`create_limit` is longer than any create takes: a row older than that has no call behind it."""

    def __init__(self, database: Database, sandboxes: SandboxService, clock: Clock, *, create_limit: timedelta) -> None:
        self._database = database
        self._sandboxes = sandboxes
        self._clock = clock
        self._create_limit = create_limit

    async def step(self) -> None:
        creating = await self._database.transact(lambda uow: uow.sandboxes.in_state(SandboxState.CREATING))
        given_up_before = self._clock.now() - self._create_limit
        for sandbox in creating:
            if sandbox.started_at < given_up_before:
                await self._try(sandbox)
        for sandbox in await self._database.transact(lambda uow: uow.sandboxes.in_state(SandboxState.KILLING)):
            await self._try(sandbox)

    async def _try(self, sandbox: Sandbox) -> None:
        try:
            if sandbox.state is SandboxState.KILLING:
                await self._sandboxes.finish_kill(sandbox)
            else:
                await self._sandboxes.abandon(sandbox, "its create was interrupted")
        except CubeError as error:
            log.info("sandbox_still_unfinished", sandbox_id=sandbox.sandbox_id, error=error.message)
