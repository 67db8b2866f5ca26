"""Nodes: what their heartbeats say, and what follows from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.contracts.node import EndedSandbox, NodeSandbox, NodeSandboxState, NodeStatus, Pause
from appliance.cubemaster.mapping import node_from_status, observation
from appliance.cubemaster.metrics import Metrics
from appliance.cubemaster.persistence.builds import HeldReplica
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.nodes import NodeActivity, NodeUsage
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.endings import Endings
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.cubemaster.services.settling import Settling
from appliance.domain.errors import CubeError, NodeNotFound
from appliance.domain.ids import BuildId, NodeId, SandboxId, TemplateId
from appliance.domain.node import AbsenceWatch, compare, compare_sleep
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


@dataclass(frozen=True, slots=True)
class _Mending:
    """What the node must do so that it agrees with the records."""

    delete: Sequence[SandboxId]
    pause: Sequence[Sandbox]
    retimed: Sequence[Sandbox]
    unsampled: Sequence[Sandbox]
    misruled: Sequence[Sandbox]
    """Their network rules on the node are not those of their rows."""
    surplus: Sequence[tuple[TemplateId, BuildId]]

    def __bool__(self) -> bool:
        return any((self.delete, self.pause, self.retimed, self.unsampled, self.misruled, self.surplus))


class NodeService:
    def __init__(
        self,
        *,
        database: Database,
        nodes: NodeClients,
        endings: Endings,
        settling: Settling,
        background: Supervisor,
        clock: Clock,
        metrics: Metrics,
        missing_grace: timedelta,
        access_token: Callable[[Sandbox], str | None],
        send_egress: Callable[[Sandbox], Awaitable[None]],
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._endings = endings
        self._settling = settling
        self._background = background
        self._clock = clock
        self._metrics = metrics
        self._absent_sandboxes = AbsenceWatch[SandboxId](missing_grace)
        self._absent_builds = AbsenceWatch[BuildId](missing_grace)
        self._access_token = access_token
        self._send_egress = send_egress
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
        present = {one: said for one, said in reported.items() if said.state is not NodeSandboxState.CREATING}
        sleepers = compare_sleep(known.live, {one: observation(said) for one, said in present.items()})
        for sandbox in sleepers.moved_on:
            await self._settling.take(sandbox, reported[sandbox.sandbox_id])
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
        running = _running_on_both(known.live, reported)
        mending = _Mending(
            delete=verdict.delete,
            pause=sleepers.strayed,
            retimed=[one for one, said in running if said.end_at != one.end_at],
            unsampled=[one for one, said in running if not said.sampled],
            misruled=[one for one, said in running if said.network_revision != one.rules.revision],
            surplus=known.surplus,
        )
        if mending and node_id not in self._mending:
            # Not while the node waits for its answer: it may be busy, and its next heartbeat must not be late.
            self._mending.add(node_id)
            self._background.spawn(self._mend(node_id, mending), name=f"mend {node_id}")

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

    async def _mend(self, node_id: NodeId, mending: _Mending) -> None:
        """Make the node agree with the records. What fails is tried again at the next heartbeat."""
        try:
            client = await self._nodes.get(node_id)
            for sandbox_id in mending.delete:
                log.info("deleting_unwanted_sandbox", node_id=node_id, sandbox_id=sandbox_id)
                await client.delete_sandbox(sandbox_id)
            for sandbox in mending.pause:
                await self._pause_again(sandbox)
            for sandbox in mending.retimed:
                await client.set_deadline(sandbox.sandbox_id, sandbox.end_at)
            for sandbox in mending.unsampled:
                await client.set_access_token(sandbox.sandbox_id, self._access_token(sandbox))
            for sandbox in mending.misruled:
                await self._rule_again(sandbox)
            for template_id, build_id in mending.surplus:
                log.info("deleting_unwanted_template", node_id=node_id, build_id=build_id)
                await client.delete_build(template_id, build_id)
        except CubeError as error:
            log.warning("node_not_mended", node_id=node_id, error=error.message)
        finally:
            self._mending.discard(node_id)

    async def _rule_again(self, sandbox: Sandbox) -> None:
        log.info("sending_network_rules_again", node_id=sandbox.node_id, sandbox_id=sandbox.sandbox_id)
        try:
            await self._send_egress(sandbox)
        except CubeError as error:
            # One that the node cannot take keeps no other from being mended.
            log.warning("network_rules_not_in_force", sandbox_id=sandbox.sandbox_id, error=error.message)

    async def _pause_again(self, sandbox: Sandbox) -> None:
        """Pause what runs although it is recorded as paused, unless somebody resumes it by now."""
        now = await self._database.transact(lambda uow: uow.sandboxes.find(sandbox.sandbox_id))
        if now is None or now.state is not SandboxState.PAUSED:
            return
        log.info("pausing_again", node_id=sandbox.node_id, sandbox_id=sandbox.sandbox_id)
        client = await self._nodes.get(sandbox.node_id)
        await client.pause_sandbox(sandbox.sandbox_id, Pause(memory=not now.filesystem_only))


def _running_on_both(
    records: Sequence[Sandbox], reported: Mapping[SandboxId, NodeSandbox]
) -> list[tuple[Sandbox, NodeSandbox]]:
    return [
        (one, said)
        for one in records
        if one.state is SandboxState.RUNNING
        and (said := reported.get(one.sandbox_id)) is not None
        and said.state is NodeSandboxState.RUNNING
    ]


def _missing(held: dict[BuildId, HeldReplica], reported: Collection[BuildId]) -> tuple[BuildId, ...]:
    ready = (build_id for build_id, one in held.items() if one.state is ReplicaState.READY)
    return tuple(build_id for build_id in ready if build_id not in reported)
