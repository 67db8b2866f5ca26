"""Forks: copies of a running sandbox, memory and all, each with an id, a token and a life of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.captures import Captures
from appliance.cubemaster.services.policies import Policies
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.domain.errors import CubeError, SandboxNotFound
from appliance.domain.ids import new_sandbox_id
from appliance.domain.private_rules import PrivateRules
from appliance.domain.sandbox import Sandbox, SandboxState
from appliance.domain.template import TemplateKind

_AT_ONCE = 8
"""Copies that start side by side: all on one node."""


class ForkService:
    def __init__(
        self,
        *,
        database: Database,
        captures: Captures,
        sandboxes: SandboxService,
        policies: Policies,
        quota: Quota,
        clock: Clock,
    ) -> None:
        self._database = database
        self._captures = captures
        self._sandboxes = sandboxes
        self._policies = policies
        self._quota = quota
        self._clock = clock

    async def fork(
        self, sandbox_id: str, *, team_id: str | None, remaining: timedelta, count: int
    ) -> list[Sandbox | CubeError]:
        """Start `count` copies of a running sandbox; return each, or why it did not start."""
        await self._database.transact(lambda uow: self._check(uow, sandbox_id, team_id=team_id, count=count))
        capture = await self._captures.take(sandbox_id, TemplateKind.FORK, team_id=team_id)
        reach("fork:captured")
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(source: Sandbox, private: PrivateRules) -> Sandbox | CubeError:
            async with places:
                try:
                    return await self._sandboxes.copy(self._copy(source, remaining), private, of=capture.build)
                except CubeError as error:
                    return error

        try:
            now, private = await self._policies.opened(capture.sandbox)
            source = replace(capture.sandbox, network=now.network, rules=now.rules)
            async with asyncio.TaskGroup() as group:
                copies = [group.create_task(one(source, private)) for _ in range(count)]
            reach("fork:copied")
        finally:
            await self._captures.discard(capture.build)
        return [copy.result() for copy in copies]

    def _check(self, uow: UnitOfWork, sandbox_id: str, *, team_id: str | None, count: int) -> None:
        source = uow.sandboxes.find(sandbox_id, team_id=team_id)
        if source is None:
            raise SandboxNotFound(sandbox_id)
        self._quota.check_copies(uow, source.team_id, count)

    def _copy(self, source: Sandbox, remaining: timedelta) -> Sandbox:
        # Of the source's own template and build: what it was copied from is nobody's business and soon gone.
        now = self._clock.now()
        return replace(
            source,
            sandbox_id=new_sandbox_id(),
            rules=self._policies.again(source.rules),
            state=SandboxState.CREATING,
            started_at=now,
            end_at=now + remaining,
            generation=0,
            changing_since=None,
            address=None,
        )
