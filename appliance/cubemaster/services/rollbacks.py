"""Rollback: a running sandbox becomes what it was at a snapshot of its own, in a new machine on its node.

For a moment it has two machines there, and holds what both may take: one that has no room for the second is refused.
The team has one sandbox all the time, so its limits do not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.common.clock import Clock
from appliance.contracts.node import Rollback
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.policies import Policies
from appliance.cubemaster.services.route_table import RouteTable
from appliance.cubemaster.services.settling import Settling
from appliance.domain.errors import (
    BuildNotFound,
    InvalidRequest,
    NoCapacity,
    SandboxNotFound,
    SandboxTransitioning,
    SnapshotNotFound,
)
from appliance.domain.ids import BuildId
from appliance.domain.sandbox import REACHED, Sandbox
from appliance.domain.template import TemplateKind, parse_reference


@dataclass(frozen=True, slots=True)
class _Intent:
    sandbox: Sandbox
    """As it was put on record to be rolled back."""
    build_id: BuildId


class Rollbacks:
    def __init__(
        self,
        *,
        database: Database,
        nodes: NodeClients,
        routes: RouteTable,
        settling: Settling,
        clock: Clock,
        policies: Policies,
        access_token: Callable[[Sandbox], str | None],
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._routes = routes
        self._settling = settling
        self._clock = clock
        self._policies = policies
        self._access_token = access_token

    async def roll_back(self, sandbox_id: str, snapshot: str, *, team_id: str | None) -> Sandbox:
        """Return it running as of the snapshot; or raise, and leave it running as it was.

        Where its node does not answer, what it did shows later.
        """
        intent = await self._database.transact(lambda uow: self._intend(uow, sandbox_id, snapshot, team_id=team_id))
        # Its address changes, and the one it had goes to the next sandbox.
        await self._routes.publish(intent.sandbox)
        return await self._carry_out(intent, snapshot)

    def _intend(self, uow: UnitOfWork, sandbox_id: str, snapshot: str, *, team_id: str | None) -> _Intent:
        """Write the row that says what it shall become, with all it takes for that."""
        before = uow.sandboxes.find(sandbox_id, team_id=team_id, lock=True)
        if before is None:
            raise SandboxNotFound(sandbox_id)
        after = before.rolling_back(at=self._clock.now())
        build_id = _own_snapshot(uow, snapshot, of=before)
        uow.sandboxes.save(after, was=before.state)
        # The node last, as every create does.
        if not uow.nodes.reserve(after.node_id, after.resources, build_id=build_id):
            raise NoCapacity(
                f"node '{after.node_id}' is not ready, no longer holds the snapshot, or has no {after.resources.vcpus}"
                f" vCPU and {after.resources.memory_mib} MiB of memory free, which a rollback needs until the sandbox's"
                " machine of before is gone; pause or kill others, or see `cubemastercli node list`"
            )
        return _Intent(after, build_id)

    async def _carry_out(self, intent: _Intent, snapshot: str) -> Sandbox:
        sandbox = intent.sandbox
        try:
            async with self._settling.failures_of(sandbox):
                request = Rollback(
                    build_id=intent.build_id,
                    access_token=self._access_token(sandbox),
                    network=await self._policies.of(sandbox),
                )
                with naming(sandbox.node_id):
                    client = await self._nodes.get(sandbox.node_id)
                    made = await client.roll_back_sandbox(sandbox.sandbox_id, request)
        except BuildNotFound as error:
            # Deleted since it was looked up.
            raise SnapshotNotFound(snapshot) from error
        running = await self._settling.take(sandbox, made)
        if running.state not in REACHED:
            raise SandboxTransitioning(sandbox.sandbox_id, "killed")
        if running.rules.revision != request.network.revision:
            # Changed meanwhile, when nobody could tell which of its machines the node would tell.
            policy = await self._policies.of(running)
            with naming(running.node_id):
                await client.set_network(running.sandbox_id, policy)
        return running


def _own_snapshot(uow: UnitOfWork, reference: str, *, of: Sandbox) -> BuildId:
    """Return the build of a snapshot that was taken of a sandbox. Another one's raises InvalidRequest."""
    named = uow.templates.resolve(parse_reference(reference), team_id=of.team_id)
    if named is None or named.build is None or named.team_id != of.team_id:
        raise SnapshotNotFound(reference)
    if uow.templates.kind(named.template_id) is not TemplateKind.SNAPSHOT:
        raise SnapshotNotFound(reference)
    source = named.build.source_sandbox_id
    if source != of.sandbox_id:
        raise InvalidRequest(
            f"Snapshot '{reference}' was taken of sandbox '{source}', not of '{of.sandbox_id}': a sandbox is rolled"
            " back to snapshots of its own; start another one from it instead"
        )
    return named.build.build_id
