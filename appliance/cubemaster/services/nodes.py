"""Nodes: what their heartbeats say, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.contracts.node import EndedSandbox, NodeStatus
from appliance.cubemaster.mapping import node_from_status
from appliance.cubemaster.metrics import Metrics
from appliance.cubemaster.persistence.builds import HeldReplica
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.nodes import NodeActivity, NodeUsage
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.endings import Endings
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.domain.errors import CubeError, NodeNotFound
from appliance.domain.ids import BuildId, NodeId, SandboxId, TemplateId
from appliance.domain.node import AbsenceWatch, compare
from appliance.domain.sandbox import EndReason, Sandbox, SandboxState
from appliance.domain.template import Replica, ReplicaState

log = structlog.get_logger()


_RECENT = timedelta(days=1)
"""How far back starts of sandboxes are counted for the operator."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    usage: NodeUsage
    activity: NodeActivity


@dataclass(frozen=True, slots=True)
class _Known:
    """What our records say of a node at the time of a heartbeat."""

    rebooted: bool
    live: tuple[Sandbox, ...]
    surplus: tuple[tuple[TemplateId, BuildId], ...]
    """Templates it reports that it should not have."""
    missing: tuple[BuildId, ...]
    """Templates it should have, and does not report."""


class NodeService:
    def __init__(
        self,
        *,
        database: Database,
        nodes: NodeClients,
        endings: Endings,
        background: Supervisor,
        clock: Clock,
        metrics: Metrics,
        missing_grace: timedelta,
        access_token: Callable[[Sandbox], str | None],
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._endings = endings
        self._background = background
        self._clock = clock
        self._metrics = metrics
        self._absent_sandboxes = AbsenceWatch[SandboxId](missing_grace)
        self._absent_builds = AbsenceWatch[BuildId](missing_grace)
        self._access_token = access_token
        self._mending: set[NodeId] = set()

    async def all(self) -> list[NodeReport]:
        since = self._clock.now() - _RECENT

        def work(uow: UnitOfWork) -> list[NodeReport]:
            activity = uow.nodes.activity(since=since)
            nothing = NodeActivity(starting=0, started=0, failed=0)
            return [NodeReport(one, activity.get(one.node.node_id, nothing)) for one in uow.nodes.all()]

        return await self._database.transact(work)

    async def set_draining(self, node_id: NodeId, *, draining: bool) -> None:
        """Let the node get no new sandboxes and builds, or again. What it has stays."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> None:
            if uow.nodes.find(node_id) is None:
                raise NodeNotFound(node_id)
            uow.nodes.set_draining(node_id, draining=draining, now=now)

        await self._database.transact(work)
        log.info("node_draining" if draining else "node_in_use", node_id=node_id)

    async def heartbeat(self, status: NodeStatus) -> None:
        """Register the node, or take over what it says; then make records and node agree."""
        node_id = NodeId(status.node_id)
        known = await self._database.transact(lambda uow: self._record(uow, status))
        await self._nodes.moved(node_id, status.endpoint)
        self._metrics.heartbeats.labels(node=node_id).inc()
        reported = {SandboxId(one.sandbox_id): one for one in status.sandboxes}
        verdict = compare(known.live, reported.keys(), rebooted=known.rebooted)
        now = self._clock.now()
        for ending in verdict.end:
            await self._endings.end(ending.sandbox_id, ending.reason, detail=ending.detail, at=now)
        at = self._clock.monotonic()
        for sandbox_id in self._absent_sandboxes.lasting(node_id, verdict.absent, at=at):
            await self._endings.end(
                sandbox_id, EndReason.VMM_DIED, detail="its node no longer has it", at=now, node_id=node_id
            )
        for build_id in self._absent_builds.lasting(node_id, known.missing, at=at):
            log.warning("replica_gone", node_id=node_id, build_id=build_id)
            await self._database.transact(
                lambda uow, build_id=build_id: uow.builds.remove_replica(node_id, build_id)  # type: ignore[misc]
            )
        unsampled = [
            one
            for one in known.live
            if one.state is SandboxState.RUNNING and one.sandbox_id in reported and not reported[one.sandbox_id].sampled
        ]
        retimed = [
            one
            for one in known.live
            if one.state is SandboxState.RUNNING
            and one.sandbox_id in reported
            and reported[one.sandbox_id].end_at != one.end_at
        ]
        if (verdict.delete or retimed or unsampled or known.surplus) and node_id not in self._mending:
            # Not while the node waits for its answer: it may be busy, and its next heartbeat must not be late.
            self._mending.add(node_id)
            self._background.spawn(
                self._mend(node_id, verdict.delete, retimed, unsampled, known.surplus), name=f"mend {node_id}"
            )

    async def ended(self, node_id: NodeId, ended: Sequence[EndedSandbox]) -> None:
        """Take the node's word for why its sandboxes ended. What ended before keeps its reason."""
        for one in ended:
            await self._endings.end(
                one.sandbox_id, EndReason(one.reason), detail=one.detail, at=one.ended_at, node_id=node_id
            )

    def _record(self, uow: UnitOfWork, status: NodeStatus) -> _Known:
        node = node_from_status(status, now=self._clock.now())
        host = status.host.model_dump() if status.host else None
        boot_before = uow.nodes.boot_id(node.node_id)
        if boot_before is None:
            uow.nodes.record_heartbeat(node, host=host)
        held = uow.builds.held_by(node.node_id)
        surplus = []
        for replica in status.replicas:
            build_id = BuildId(replica.build_id)
            before = held.get(build_id)
            if before is None and uow.builds.is_usable(build_id):
                # It was given up for missing, and is back.
                uow.builds.put_replica(Replica(node.node_id, build_id, ReplicaState.READY, attempt=1))
            elif before is None:
                surplus.append((TemplateId(replica.template_id), build_id))
            if before is None or before.pooled != replica.pooled:
                uow.builds.set_pooled(node.node_id, build_id, replica.pooled)
        known = _Known(
            rebooted=boot_before is not None and boot_before != status.boot_id,
            live=tuple(uow.sandboxes.live_on(node.node_id)),
            surplus=tuple(surplus),
            missing=_missing(held, {BuildId(one.build_id) for one in status.replicas}),
        )
        if boot_before is not None:
            # Last, since it locks the row that every create on this node must write.
            uow.nodes.record_heartbeat(node, host=host)
        return known

    async def _mend(
        self,
        node_id: NodeId,
        delete: Sequence[SandboxId],
        retimed: Sequence[Sandbox],
        unsampled: Sequence[Sandbox],
        surplus: Sequence[tuple[TemplateId, BuildId]],
    ) -> None:
        """Make the node agree with the records. What fails is tried again at the next heartbeat."""
        try:
            client = await self._nodes.get(node_id)
            for sandbox_id in delete:
                log.info("deleting_unwanted_sandbox", node_id=node_id, sandbox_id=sandbox_id)
                await client.delete_sandbox(sandbox_id)
            for sandbox in retimed:
                await client.set_deadline(sandbox.sandbox_id, sandbox.end_at)
            for sandbox in unsampled:
                await client.set_access_token(sandbox.sandbox_id, self._access_token(sandbox))
            for template_id, build_id in surplus:
                log.info("deleting_unwanted_template", node_id=node_id, build_id=build_id)
                await client.delete_build(template_id, build_id)
        except CubeError as error:
            log.warning("node_not_mended", node_id=node_id, error=error.message)
        finally:
            self._mending.discard(node_id)


def _missing(held: dict[BuildId, HeldReplica], reported: Collection[BuildId]) -> tuple[BuildId, ...]:
    ready = (build_id for build_id, one in held.items() if one.state is ReplicaState.READY)
    return tuple(build_id for build_id in ready if build_id not in reported)
