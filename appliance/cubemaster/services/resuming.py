"""Resume: a paused sandbox takes its place in the quota and on its node again, for a caller or for traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.contracts.node import OnTimeout as NodeOnTimeout
from appliance.contracts.node import Resume
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.policies import Policies
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.cubemaster.services.settling import Settling
from appliance.domain.errors import (
    Conflict,
    CubeError,
    Forbidden,
    NoCapacity,
    SandboxNotFound,
    SandboxTransitioning,
    Unavailable,
)
from appliance.domain.sandbox import REACHED, OnTimeout, Sandbox, SandboxState

_CHANGE_LIMIT = timedelta(seconds=15)
"""How long a caller waits for a change that another one began."""
_POLL_S = 0.05
_WOKEN_FOR = timedelta(minutes=5)
"""The timeout of a sandbox that traffic woke, as E2B has it."""


class Resuming:
    def __init__(
        self,
        *,
        database: Database,
        nodes: NodeClients,
        sandboxes: SandboxService,
        settling: Settling,
        clock: Clock,
        policies: Policies,
        quota: Quota,
        access_token: Callable[[Sandbox], str | None],
        change_limit: timedelta = _CHANGE_LIMIT,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._sandboxes = sandboxes
        self._settling = settling
        self._clock = clock
        self._policies = policies
        self._quota = quota
        self._access_token = access_token
        self._change_limit_s = change_limit.total_seconds()
        self._waking: dict[str, asyncio.Future[Sandbox]] = {}

    async def resume(
        self,
        sandbox_id: str,
        remaining: timedelta,
        *,
        team_id: str | None,
        memory: bool,
        auto_pause: bool | None,
    ) -> Sandbox:
        """Resume a paused sandbox; Conflict if it is not paused."""
        sandbox = await self._sandboxes.get(sandbox_id, team_id=team_id)
        resuming = await self._intend(
            sandbox_id, remaining, team_id=team_id, on_timeout=_on_timeout(sandbox, auto_pause)
        )
        return await self._carry_out(resuming, memory=memory)

    async def connect(
        self, sandbox_id: str, remaining: timedelta, *, team_id: str | None, memory: bool
    ) -> tuple[Sandbox, bool]:
        """Return it running, for at least `remaining` from now, and whether it had to be resumed for that."""
        give_up = self._clock.monotonic() + self._change_limit_s
        while True:
            sandbox = await self._sandboxes.get(sandbox_id, team_id=team_id)
            try:
                if sandbox.state in REACHED:
                    kept = await self._sandboxes.set_timeout(sandbox_id, remaining, team_id=team_id, extend_only=True)
                    return kept, False
                resuming = await self._intend(sandbox_id, remaining, team_id=team_id)
            except Conflict:
                # Another call changes it, or has changed it since it was looked at.
                if self._clock.monotonic() > give_up:
                    raise
                await asyncio.sleep(_POLL_S)
                continue
            return await self._carry_out(resuming, memory=memory), True

    async def wake(self, sandbox_id: str) -> Sandbox:
        """Return it running, resumed if traffic may do that. All who ask at one time share one resume."""
        going = self._waking.get(sandbox_id)
        if going is not None:
            return await asyncio.shield(going)
        mine: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._waking[sandbox_id] = mine
        try:
            sandbox = await self._wake(sandbox_id)
        except BaseException as error:
            mine.set_exception(error if isinstance(error, CubeError) else Unavailable("the resume was interrupted"))
            # Where nobody joined, nobody else will look at it.
            mine.exception()
            raise
        finally:
            del self._waking[sandbox_id]
        mine.set_result(sandbox)
        return sandbox

    async def _wake(self, sandbox_id: str) -> Sandbox:
        give_up = self._clock.monotonic() + self._change_limit_s
        while True:
            sandbox = await self._sandboxes.get(sandbox_id, team_id=None)
            if sandbox.state in REACHED:
                return sandbox
            if sandbox.state is SandboxState.PAUSED and not sandbox.wakes:
                raise Forbidden(f"Sandbox '{sandbox_id}' is paused and is not resumed by traffic; use connect")
            try:
                resuming = await self._intend(sandbox_id, _WOKEN_FOR, team_id=None)
            except Conflict:
                if self._clock.monotonic() > give_up:
                    raise
                await asyncio.sleep(_POLL_S)
                continue
            return await self._carry_out(resuming, memory=True)

    async def _intend(
        self, sandbox_id: str, remaining: timedelta, *, team_id: str | None, on_timeout: OnTimeout | None = None
    ) -> Sandbox:
        """Write the row that says it shall run again, with all it takes for that. Conflict if it is not paused."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> Sandbox:
            found = uow.sandboxes.find(sandbox_id, team_id=team_id)
            if found is None:
                raise SandboxNotFound(sandbox_id)
            # The team before the row and the node last, as every create does.
            uow.keys.lock_team(found.team_id)
            before = uow.sandboxes.find(sandbox_id, lock=True)
            if before is None or before.state is SandboxState.ENDED:
                raise SandboxNotFound(sandbox_id)
            after = before.resuming(remaining, at=now, on_timeout=on_timeout)
            uow.sandboxes.save(after, was=before.state)
            self._quota.check(uow, after.team_id)
            if not uow.nodes.reserve_again(after.node_id, after.resources):
                raise NoCapacity(
                    f"node '{after.node_id}', which keeps the paused sandbox, is not ready or has no"
                    f" {after.resources.vcpus} vCPU and {after.resources.memory_mib} MiB of memory free;"
                    " pause or kill others, or see `cubemastercli node list`"
                )
            return after

        return await self._database.transact(work)

    async def _carry_out(self, sandbox: Sandbox, *, memory: bool) -> Sandbox:
        reach("resume:written")
        async with self._settling.failures_of(sandbox):
            request = Resume(
                end_at=sandbox.end_at,
                on_timeout=NodeOnTimeout(sandbox.on_timeout),
                memory=memory,
                access_token=self._access_token(sandbox),
                network=await self._policies.of(sandbox),
            )
            with naming(sandbox.node_id):
                client = await self._nodes.get(sandbox.node_id)
                made = await client.resume_sandbox(sandbox.sandbox_id, request)
        reach("resume:carried-out")
        running = await self._settling.take(sandbox, made)
        if running.state not in REACHED:
            raise SandboxTransitioning(sandbox.sandbox_id, "killed")
        if running.rules.revision != request.network.revision:
            # Changed while it resumed, when nobody could tell whether its node had taken the rules already.
            policy = await self._policies.of(running)
            with naming(running.node_id):
                await client.set_network(running.sandbox_id, policy)
        return running


def _on_timeout(sandbox: Sandbox, auto_pause: bool | None) -> OnTimeout | None:
    """Return what a resume makes of the rule for its timeout; None leaves it."""
    if auto_pause is None or auto_pause is (sandbox.on_timeout is not OnTimeout.KILL):
        return None
    return OnTimeout.PAUSE if auto_pause else OnTimeout.KILL
