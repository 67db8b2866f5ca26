"""Finishes what a dead CubeMaster or an unreachable node left half done: creates, pauses, resumes and rollbacks that
nobody waits for, and kills."""

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


_PATIENCE = timedelta(seconds=10)
"""So long a change is left to its call: most are over by then, and the node has surely heard of the others."""


class UnfinishedSandboxReconciler:
    """`create_limit` and `change_limit` are longer than any call takes: a row older than that has no call behind it.

    A change that its node is not at any more is settled long before, as the node has it. Should a call that began it
    still reach the node, the node's next heartbeats show what it did, and the count of pauses and resumes that it is
    news.
    """

    def __init__(
        self,
        database: Database,
        sandboxes: SandboxService,
        settling: Settling,
        clock: Clock,
        *,
        create_limit: timedelta,
        change_limit: timedelta,
    ) -> None:
        self._database = database
        self._sandboxes = sandboxes
        self._settling = settling
        self._clock = clock
        self._create_limit = create_limit
        self._change_limit = change_limit

    async def step(self) -> None:
        now = self._clock.now()
        began = await self._database.transact(lambda uow: uow.sandboxes.in_state(SandboxState.CREATING, *CHANGING))
        for sandbox in began:
            age = now - (sandbox.changing_since or sandbox.started_at)
            if age > (_PATIENCE if sandbox.state in CHANGING else self._create_limit):
                await self._try(sandbox, given_up=age > self._change_limit)
        for sandbox in await self._database.transact(lambda uow: uow.sandboxes.in_state(SandboxState.KILLING)):
            await self._try(sandbox)

    async def _try(self, sandbox: Sandbox, *, given_up: bool = True) -> None:
        try:
            if sandbox.state is SandboxState.KILLING:
                await self._sandboxes.finish_kill(sandbox)
            elif sandbox.state in CHANGING:
                await self._settling.ask(sandbox, given_up=given_up)
            else:
                await self._sandboxes.abandon(sandbox, "its create was interrupted")
        except CubeError as error:
            log.info("sandbox_still_unfinished", sandbox_id=sandbox.sandbox_id, error=error.message)
