"""Whether a sandbox runs or is paused, and in which machine, as its node has it: its word, taken into the record.

Level-triggered and safe to repeat. Calls end here, reconcilers start here after a crash, and heartbeats report here
what a node did by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.contracts.node import NodeSandbox, NodeSandboxState
from appliance.cubemaster.mapping import observation
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.endings import Endings
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.cubemaster.services.route_table import RouteTable
from appliance.domain.errors import CubeError, SandboxNotFound, Unavailable
from appliance.domain.sandbox import EndReason, Sandbox, SandboxState

log = structlog.get_logger()

_EVENTS = {SandboxState.PAUSED: "sandbox_paused", SandboxState.RUNNING: "sandbox_resumed"}


class Settling:
    def __init__(
        self, *, database: Database, nodes: NodeClients, routes: RouteTable, endings: Endings, clock: Clock
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._routes = routes
        self._endings = endings
        self._clock = clock

    async def ask(self, sandbox: Sandbox, *, given_up: bool = True) -> Sandbox:
        """Ask the node what is true of `sandbox`, record it, and return the row as it is then.

        Where the change is not `given_up`, nothing is recorded while the node is still at it.
        """
        client = await self._nodes.get(sandbox.node_id)
        try:
            seen = await client.get_sandbox(sandbox.sandbox_id)
        except SandboxNotFound:
            return await self._absent(sandbox)
        if seen.changing and not given_up:
            return sandbox
        return await self.take(sandbox, seen)

    async def try_ask(self, sandbox: Sandbox) -> None:
        """Ask if that is possible now; else the reconciler of unfinished sandboxes will."""
        try:
            await self.ask(sandbox)
        except CubeError as error:
            log.warning("sandbox_not_settled_yet", sandbox_id=sandbox.sandbox_id, error=error.message)

    @asynccontextmanager
    async def failures_of(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """Ask the node what is true of `sandbox` where the block, a call of that node, fails. The failure goes on.

        A node that does not answer may still be at it: the reconciler of unfinished sandboxes asks it later.
        """
        try:
            yield
        except Unavailable:
            raise
        except CubeError:
            await self.try_ask(sandbox)
            raise

    async def take(self, sandbox: Sandbox, seen: NodeSandbox) -> Sandbox:
        """Record what the node says, unless the row has left the state in which the caller knows it; return the row."""
        if seen.state is NodeSandboxState.CREATING:
            return sandbox
        now = self._clock.now()
        return await self._change(sandbox, lambda row: row.settled(observation(seen), at=now))

    async def lose(self, sandbox: Sandbox, *, detail: str) -> None:
        """Record that its node is lost: what ran has ended, what was paused waits there for the node's return."""
        now = self._clock.now()
        if sandbox.out_of_reach(at=now) is None:
            await self._endings.end(sandbox.sandbox_id, EndReason.NODE_LOST, detail=detail, at=now)
        else:
            await self._change(sandbox, lambda row: row.out_of_reach(at=now) or row)

    async def _absent(self, sandbox: Sandbox) -> Sandbox:
        if sandbox.state is SandboxState.RESUMING:
            ended = await self._endings.end(
                sandbox.sandbox_id, EndReason.VMM_DIED, detail="its node no longer has it", at=self._clock.now()
            )
            return ended or sandbox
        # Running ones end with a reason that the node tells in a message of its own. Where it tells none, the watch
        # over absent sandboxes ends it.
        return await self._change(sandbox, Sandbox.unheard)

    async def _change(self, sandbox: Sandbox, step: Callable[[Sandbox], Sandbox]) -> Sandbox:
        now = self._clock.now()

        def work(uow: UnitOfWork) -> tuple[Sandbox, bool]:
            before = uow.sandboxes.find(sandbox.sandbox_id, lock=True)
            if before is None:
                raise SandboxNotFound(sandbox.sandbox_id)
            if (before.state, before.changing_since) != (sandbox.state, sandbox.changing_since):
                return before, False
            after = step(before)
            if after == before:
                return before, False
            uow.sandboxes.save(after, was=before.state)
            uow.nodes.release(before, after)
            kind = _event(before, after)
            if kind is not None:
                uow.events.add(
                    kind,
                    at=now,
                    team_id=after.team_id,
                    sandbox_id=after.sandbox_id,
                    node_id=after.node_id,
                    detail={"was": str(before.state)},
                )
            return after, True

        after, changed = await self._database.transact(work)
        if changed:
            reach("settle:written")
            await self._routes.publish_if_true(after)
            log.info("sandbox_settled", sandbox_id=after.sandbox_id, was=sandbox.state, state=after.state)
        return after


def _event(before: Sandbox, after: Sandbox) -> str | None:
    if after.state is SandboxState.RUNNING and before.state in {SandboxState.RUNNING, SandboxState.ROLLING_BACK}:
        return "sandbox_rolled_back" if after.generation > before.generation else None
    return None if before.state is SandboxState.SNAPSHOTTING else _EVENTS.get(after.state)
