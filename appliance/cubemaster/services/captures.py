"""Captures: builds that a node takes of a running sandbox, for a snapshot to keep or for a fork to start copies from.

The build and its replica are on record before the node is asked: what it took and nobody waits for is found again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import timedelta

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.contracts.node import Snapshot
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.settling import Settling
from appliance.domain.errors import BuildNotFound, Conflict, CubeError, SandboxNotFound, Unavailable
from appliance.domain.ids import BuildId, TeamId, TemplateId, new_template_id
from appliance.domain.sandbox import Sandbox
from appliance.domain.template import (
    DEFAULT_TAG,
    Build,
    BuildStatus,
    Replica,
    ReplicaState,
    TemplateKind,
    TemplateReference,
)

_FORK_LIMIT = timedelta(minutes=10)
"""Longer than a fork of as many as there may be takes."""


@dataclass(frozen=True, slots=True)
class Capture:
    sandbox: Sandbox
    """The source, as it was put on record to be captured."""
    build: Build


class Captures:
    def __init__(
        self, *, database: Database, nodes: NodeClients, settling: Settling, clock: Clock, call_limit: timedelta
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._settling = settling
        self._clock = clock
        self._call_limit = call_limit

    async def take(
        self,
        sandbox_id: str,
        kind: TemplateKind,
        *,
        team_id: str | None,
        memory: bool = True,
        name: TemplateReference | None = None,
    ) -> Capture:
        """Take a build of a running sandbox, which runs on; or raise, and leave nothing of it."""
        capture = await self._database.transact(
            lambda uow: self._intend(uow, sandbox_id, kind, team_id=team_id, name=name)
        )
        return await self._carry_out(capture, memory=memory)

    async def discard(self, build: Build) -> None:
        """Delete what a fork was started from: for every reader now, and by a reconciler on its node."""
        now = self._clock.now()
        await self._database.transact(lambda uow: uow.templates.hide(build.template_id, now=now))

    async def step(self) -> None:
        """Give up captures and forks that a dead CubeMaster has left."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> None:
            for build in uow.builds.captures_before(now - self._call_limit):
                self._give_up(uow, build, "it was interrupted")
            for template_id in uow.snapshots.forks_before(now - _FORK_LIMIT):
                uow.templates.hide(template_id, now=now)

        await self._database.transact(work)

    def _intend(
        self,
        uow: UnitOfWork,
        sandbox_id: str,
        kind: TemplateKind,
        *,
        team_id: str | None,
        name: TemplateReference | None,
    ) -> Capture:
        now = self._clock.now()
        found = uow.sandboxes.find(sandbox_id, team_id=team_id)
        if found is None:
            raise SandboxNotFound(sandbox_id)
        # The team before the sandbox, as every resume does; and against another one that takes the name just now.
        uow.keys.lock_team(found.team_id)
        before = uow.sandboxes.find(sandbox_id, lock=True)
        if before is None:
            raise SandboxNotFound(sandbox_id)
        source = before.snapshotting(at=now, what="forked" if kind is TemplateKind.FORK else "snapshotted")
        uow.sandboxes.save(source, was=before.state)
        origin = uow.builds.find(source.build_id)
        if origin is None:
            raise BuildNotFound(source.build_id)
        template_id = _named(uow, name, team_id=source.team_id) if name else None
        if template_id is None:
            template_id = new_template_id()
            uow.templates.add(template_id, team_id=source.team_id, public=False, now=now, kind=kind)
            if name:
                uow.templates.add_alias(name.name, template_id, team_id=source.team_id)
        build = Build(
            build_id=BuildId(str(uuid.uuid4())),
            template_id=template_id,
            tags=(name.tag if name else DEFAULT_TAG,),
            status=BuildStatus.BUILDING,
            spec=replace(origin.spec, registry_login=None),
            created_at=now,
            source_sandbox_id=source.sandbox_id,
        )
        uow.builds.add(build)
        uow.builds.put_replica(Replica(source.node_id, build.build_id, ReplicaState.BUILDING, attempt=1))
        return Capture(source, build)

    async def _carry_out(self, capture: Capture, *, memory: bool) -> Capture:
        sandbox, build = capture.sandbox, capture.build
        reach("capture:written")
        asked = Snapshot(template_id=build.template_id, build_id=build.build_id, memory=memory)
        try:
            with naming(sandbox.node_id):
                client = await self._nodes.get(sandbox.node_id)
                taken = await client.snapshot_sandbox(sandbox.sandbox_id, asked)
        except Unavailable:
            # It may still be at it: given up, and freed on the node, once no call can be behind it any more.
            raise
        except CubeError as error:
            reason = error.message
            await self._database.transact(lambda uow: self._give_up(uow, build, reason))
            await self._settling.try_ask(sandbox)
            raise
        reach("capture:carried-out")
        ready = replace(build, disk_size_mib=taken.disk_size_mib, envd_version=taken.envd_version).ready(
            at=self._clock.now()
        )
        kept = await self._database.transact(lambda uow: self._keep(uow, ready, sandbox))
        reach("capture:kept")
        await self._settling.try_ask(sandbox)
        if not kept:
            raise Conflict(f"the snapshot of sandbox '{sandbox.sandbox_id}' was deleted while it was taken")
        return Capture(sandbox, ready)

    def _keep(self, uow: UnitOfWork, build: Build, sandbox: Sandbox) -> bool:
        if not uow.builds.finish_capture(build):
            return False
        now = build.finished_at or self._clock.now()
        (tag,) = build.tags
        uow.builds.put_replica(Replica(sandbox.node_id, build.build_id, ReplicaState.READY, attempt=1))
        before = {one.tag: one.build_id for one in uow.templates.tags(build.template_id)}
        uow.templates.point_tag(build.template_id, tag, build.build_id, now=now)
        uow.templates.touch(build.template_id, now=now)
        replaced = before.pop(tag, None)
        if replaced is not None and replaced not in before.values():
            # No name leads to it any more. The node keeps it as long as sandboxes of it live.
            uow.builds.discard_replicas(replaced)
        return True

    def _give_up(self, uow: UnitOfWork, build: Build, reason: str) -> None:
        now = self._clock.now()
        uow.builds.cancel(build.build_id, reason=reason, now=now)
        uow.builds.discard_replicas(build.build_id)
        others = (one.status for one in uow.builds.of_template(build.template_id) if one.build_id != build.build_id)
        if not {BuildStatus.BUILDING, BuildStatus.READY}.intersection(others):
            # Nothing of that name is or becomes usable: the name is free again.
            uow.templates.hide(build.template_id, now=now)


def _named(uow: UnitOfWork, name: TemplateReference, *, team_id: TeamId) -> TemplateId | None:
    """Return the snapshots of that name, to which one is added, or None where there are none."""
    slug = uow.keys.slug(team_id)
    if name.namespace not in (None, slug):
        raise Conflict(f"the snapshot's name '{name}' names team '{name.namespace}', but the sandbox is of '{slug}'")
    found = uow.templates.of_alias(name.name, team_id=team_id)
    if found is not None and uow.templates.kind(found) is not TemplateKind.SNAPSHOT:
        raise Conflict(f"'{name.name}' is the name of a template; choose another one for the snapshot")
    return found
