"""What the operator orders for everything a team has: end its sandboxes, give up its builds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.cubemaster.services.teams import found_team
from appliance.domain.errors import CubeError, SandboxNotFound
from appliance.domain.ids import BuildId, SandboxId

log = structlog.get_logger()

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    done: int
    failed: int


class TeamOrders:
    def __init__(self, database: Database, sandboxes: SandboxService, clock: Clock) -> None:
        self._database = database
        self._sandboxes = sandboxes
        self._clock = clock

    async def kill_sandboxes(self, reference: str) -> Outcome:
        """Kill all that the team has, paused ones too. One whose node does not answer counts as failed, and dies when
        the node is back."""

        def work(uow: UnitOfWork) -> list[SandboxId]:
            return uow.teams.live_sandboxes(found_team(uow, reference).team_id)

        wanted = await self._database.transact(work)
        gate = asyncio.Semaphore(_AT_ONCE)
        outcomes = await asyncio.gather(*(self._kill(one, gate) for one in wanted))
        return Outcome(done=sum(outcomes), failed=len(outcomes) - sum(outcomes))

    async def cancel_builds(self, reference: str) -> Outcome:
        """End all builds that wait or run; nodes free what they had of them soon after."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> list[BuildId]:
            cancelled = uow.teams.unfinished_builds(found_team(uow, reference).team_id)
            for build_id in cancelled:
                uow.builds.cancel(build_id, reason="cancelled by the operator", now=now)
                uow.builds.discard_replicas(build_id)
            return cancelled

        return Outcome(done=len(await self._database.transact(work)), failed=0)

    async def _kill(self, sandbox_id: SandboxId, gate: asyncio.Semaphore) -> bool:
        async with gate:
            try:
                await self._sandboxes.kill(sandbox_id, team_id=None)
            except SandboxNotFound:
                # It ended meanwhile, which is what was wanted.
                return True
            except CubeError as error:
                log.warning("sandbox_not_killed_yet", sandbox_id=sandbox_id, error=error.message)
                return False
            return True
