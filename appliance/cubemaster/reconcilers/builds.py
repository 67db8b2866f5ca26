"""Drives template builds: hands them to nodes, follows them, and says how they ended.

A build is leased in a short transaction, advanced outside any, and written back guarded by the lease: a CubeMaster
that dies half-way only delays it by the lease. What a node was asked is on record before it is asked.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.contracts.node import BuildProgress, BuildState
from appliance.cubemaster.mapping import build_request
from appliance.cubemaster.metrics import Metrics
from appliance.cubemaster.persistence.builds import LogEntry
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.domain.errors import BuildNotFound, CubeError, NotFound, Unavailable
from appliance.domain.ids import NodeId
from appliance.domain.node import NodeState
from appliance.domain.template import Build, BuildStatus, Replica, ReplicaState, build_status

log = structlog.get_logger()

_AT_ONCE = 8
_LEASE = timedelta(seconds=60)
"""Longer than a step, which makes one call to each node."""
_MAX_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class _Task:
    build: Build
    replicas: tuple[Replica, ...]
    lost: frozenset[NodeId]
    able: tuple[NodeId, ...]
    """Nodes that may build it now: those that are ready, and hold what it starts from."""
    baseless: bool = False
    """Whether what it starts from was deleted."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What one look at a replica found out."""

    replica: Replica
    entries: tuple[LogEntry, ...] = ()
    progress: BuildProgress | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    build: Build
    steps: Sequence[_Step] = field(default_factory=tuple)


class BuildReconciler:
    def __init__(
        self, database: Database, nodes: NodeClients, clock: Clock, metrics: Metrics, *, deadline: timedelta
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._clock = clock
        self._metrics = metrics
        self._deadline = deadline

    async def step(self) -> None:
        """Advance every unfinished build that nobody else works on."""
        token = str(uuid.uuid4())
        now = self._clock.now()

        def lease(uow: UnitOfWork) -> list[_Task]:
            builds = uow.builds.lease(token=token, now=now, until=now + _LEASE, limit=_AT_ONCE)
            if not builds:
                return []
            nodes = uow.nodes.all()
            lost = frozenset(one.node.node_id for one in nodes if one.node.state is NodeState.LOST)
            ready = tuple(one.node.node_id for one in nodes if one.node.state is NodeState.READY and not one.draining)

            def task(build: Build) -> _Task:
                replicas, base = tuple(uow.builds.replicas(build.build_id)), build.spec.from_build
                if base is None:
                    return _Task(build, replicas, lost, able=ready)
                holders = {one.node_id for one in uow.builds.replicas(base) if one.state is ReplicaState.READY}
                able = tuple(node for node in ready if node in holders)
                return _Task(build, replicas, lost, able, baseless=not uow.builds.is_usable(base))

            return [task(build) for build in builds]

        leasing = asyncio.ensure_future(self._database.transact(lease))
        try:
            tasks = await asyncio.shield(leasing)
            if tasks:
                reach("build:leased")
            async with asyncio.TaskGroup() as group:
                for task in tasks:
                    group.create_task(self._work_on(task, token))
        except asyncio.CancelledError:
            # Whoever goes on after this process stops shall not wait for the leases to run out.
            await asyncio.wait([leasing])
            await self._database.transact(lambda uow: uow.builds.give_back(token=token))
            raise

    async def _work_on(self, task: _Task, token: str) -> None:
        try:
            result = await self._advance(task)
        except CubeError as error:
            log.warning("build_not_advanced", build_id=task.build.build_id, error=error.message)
            result = _Result(task.build)
        try:
            await self._database.transact(lambda uow: self._apply(uow, result, token))
        except Unavailable:
            # Looked at again, from the same log offset, when the lease has run out.
            return
        build = result.build
        if build.status is not task.build.status and build.finished_at is not None:
            reach("build:published")
            self._metrics.builds.labels(status=build.status).inc()
            log.info("build_ended", build_id=build.build_id, status=build.status, reason=build.reason)

    async def _advance(self, task: _Task) -> _Result:
        if not task.replicas:
            return self._hand_out(task)
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(self._look(one, task)) for one in task.replicas]
        return self._conclude(task.build, [look.result() for look in looks])

    def _hand_out(self, task: _Task) -> _Result:
        """Put on record which nodes shall build it."""
        build = task.build
        if task.baseless:
            reason = "the template that it starts from was deleted"
            return _Result(build.failed(reason, step="base", at=self._clock.now()))
        if task.able:
            return _Result(build, [_Step(Replica(node, build.build_id, ReplicaState.BUILDING)) for node in task.able])
        if self._overdue(build):
            reason = "no node became ready to build it; see `cubemastercli node list`"
            return _Result(build.failed(reason, step=None, at=self._clock.now()))
        return _Result(build)

    def _conclude(self, build: Build, steps: Sequence[_Step]) -> _Result:
        """Decide from what the nodes said."""
        now = self._clock.now()
        for progress in (step.progress for step in steps):
            if progress is not None and progress.state is BuildState.READY:
                # Kept at once: another node may be at it for longer, and this one is not asked again.
                size = progress.disk_size_mib or build.spec.writable_layer_mib
                build = replace(build, disk_size_mib=size, envd_version=progress.envd_version)
        verdict = build_status([step.replica.state for step in steps])
        if verdict is not BuildStatus.BUILDING:
            reach("build:decided")
        if verdict is BuildStatus.READY:
            build = build.ready(at=now)
        elif verdict is BuildStatus.ERROR:
            first = steps[0].replica
            build = build.failed(first.reason or "the build failed", step=first.step, at=now)
        elif self._overdue(build):
            minutes = self._deadline.total_seconds() / 60
            build = build.failed(f"it did not finish within {minutes:g} minutes", step=None, at=now)
        return _Result(build, steps)

    def _overdue(self, build: Build) -> bool:
        return self._clock.now() - (build.started_at or build.created_at) > self._deadline

    async def _look(self, replica: Replica, task: _Task) -> _Step:
        """Find out how far one node is."""
        if replica.state is not ReplicaState.BUILDING:
            return _Step(replica)
        if replica.node_id in task.lost:
            return _Step(_failed(replica, f"node '{replica.node_id}' was lost while it built"))
        try:
            return await self._ask(replica, task.build)
        except (Unavailable, NotFound):
            # The node may come back. If it does not, it is lost, or the build overdue.
            return _Step(replica)
        except CubeError as error:
            return _Step(_failed(replica, error.message))

    async def _ask(self, replica: Replica, build: Build) -> _Step:
        client = await self._nodes.get(replica.node_id)
        again = replica.attempt > 0
        if again:
            try:
                progress = await client.get_build(build.build_id, log_offset=replica.log_offset)
            except BuildNotFound:
                if replica.attempt >= _MAX_ATTEMPTS:
                    return _Step(_failed(replica, f"node '{replica.node_id}' lost the build twice; see its journal"))
            else:
                return self._taken(replica, progress)
        reach("build:assigned")
        await client.start_build(build_request(build))
        reach("build:handed-out")
        note = (
            LogEntry(self._clock.now(), "warn", f"node {replica.node_id} lost the build; starting again")
            if again
            else LogEntry(self._clock.now(), "info", f"building on node {replica.node_id}")
        )
        return _Step(replace(replica, attempt=replica.attempt + 1, log_offset=0), (note,))

    def _taken(self, replica: Replica, progress: BuildProgress) -> _Step:
        entries = tuple(LogEntry(one.timestamp, one.level, one.message, one.step) for one in progress.logs)
        moved = replace(replica, log_offset=replica.log_offset + len(entries))
        if progress.state is BuildState.READY:
            moved = replace(moved, state=ReplicaState.READY)
        elif progress.state is BuildState.ERROR:
            moved = _failed(moved, progress.reason or "the node gave no reason", step=progress.step)
        return _Step(moved, entries, progress)

    def _apply(self, uow: UnitOfWork, result: _Result, token: str) -> None:
        build = result.build
        if not uow.builds.save(build, token=token):
            # The template was deleted, or this took longer than its lease.
            log.warning("build_lease_lost", build_id=build.build_id)
            return
        for step in result.steps:
            uow.builds.put_replica(step.replica)
            uow.builds.append_log(build.build_id, step.entries)
        if build.finished_at is None:
            return
        if build.status is BuildStatus.READY:
            for tag in build.tags:
                uow.templates.point_tag(build.template_id, tag, build.build_id, now=build.finished_at)
            closing = LogEntry(build.finished_at, "info", "the template is ready")
        else:
            closing = LogEntry(build.finished_at, "error", build.reason or "failed", build.step)
        uow.templates.touch(build.template_id, now=build.finished_at)
        # A node may have logged the reason itself.
        if not any(entry.message == closing.message for step in result.steps for entry in step.entries):
            uow.builds.append_log(build.build_id, (closing,))


def _failed(replica: Replica, reason: str, *, step: str | None = None) -> Replica:
    return replace(replica, state=ReplicaState.ERROR, reason=reason, step=step)
