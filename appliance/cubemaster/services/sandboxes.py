"""Sandboxes: create, look, retime, kill. The intent is committed before a node hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.contracts.node import CreateSandbox, NodeSandbox
from appliance.contracts.node import OnTimeout as NodeOnTimeout
from appliance.contracts.node_volumes import NodeVolumeMount
from appliance.cubemaster.metrics import Metrics
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.sandboxes import DuplicateIdempotencyKey, Position, SandboxFilter
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.cubemaster.services.endings import Endings
from appliance.cubemaster.services.intents import Wish, check_wish, intend
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.policies import Policies
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.route_table import RouteTable
from appliance.cubemaster.services.settling import Settling
from appliance.cubemaster.services.tokens import SandboxTokens
from appliance.domain.errors import (
    Conflict,
    CubeError,
    DeadlineExceeded,
    InvalidRequest,
    NoCapacity,
    NotFound,
    SandboxNotFound,
    SandboxTransitioning,
    TemplateNotFound,
    Unavailable,
)
from appliance.domain.header_rules import Named
from appliance.domain.ids import BuildId, TemplateId
from appliance.domain.network import SandboxNetwork, check_network
from appliance.domain.private_rules import PrivateRules, check_private
from appliance.domain.sandbox import AWAKE, REACHED, EndReason, OnTimeout, Sandbox, SandboxState
from appliance.domain.template import Build

log = structlog.get_logger()

_TWIN_POLL_S = 0.05
"""How often a repeated create looks whether the first one has finished."""
_EGRESS_ATTEMPTS = 5

_NEARLY_OVER = timedelta(seconds=5)
"""So close to its end a sandbox may have been paused by its node, whose clock is another one."""
_GOING = frozenset({SandboxState.KILLING, SandboxState.ENDED})


@dataclass(frozen=True, slots=True)
class Page:
    sandboxes: tuple[Sandbox, ...]
    next_position: Position | None
    total_running: int | None


class SandboxService:
    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        nodes: NodeClients,
        routes: RouteTable,
        endings: Endings,
        settling: Settling,
        clock: Clock,
        metrics: Metrics,
        policies: Policies,
        quota: Quota,
        tokens: SandboxTokens,
        create_deadline: timedelta,
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._nodes = nodes
        self._routes = routes
        self._endings = endings
        self._settling = settling
        self._clock = clock
        self._metrics = metrics
        self._policies = policies
        self._quota = quota
        self._tokens = tokens
        self._create_deadline = create_deadline

    async def create(self, wish: Wish) -> Sandbox:
        """Return a running sandbox, or raise and leave nothing running."""
        named = check_wish(wish)
        try:
            sandbox = await self._create(wish, named)
        except DuplicateIdempotencyKey:
            return await self._twin(wish)
        except CubeError as error:
            self._metrics.creates.labels(outcome=type(error).__name__).inc()
            raise
        self._metrics.creates.labels(outcome="running").inc()
        return sandbox

    async def copy(self, sandbox: Sandbox, private: PrivateRules, *, of: Build) -> Sandbox:
        """Start `sandbox` from a build that its node took of another one, or raise and leave nothing running."""
        sealed = self._policies.seal(private, sandbox.sandbox_id)

        def work(uow: UnitOfWork) -> None:
            uow.keys.lock_team(sandbox.team_id)
            uow.sandboxes.add(sandbox, sealed_rules=sealed, idempotency_key=None)
            self._quota.check(uow, sandbox.team_id)
            if not uow.nodes.reserve(sandbox.node_id, sandbox.resources, build_id=of.build_id):
                raise NoCapacity(f"node '{sandbox.node_id}' has no room for another copy; kill sandboxes")

        try:
            await self._database.transact(work)
            made = await self._start_on_node(sandbox, template_id=of.template_id, build_id=of.build_id, env_vars={})
            running = await self._record_running(sandbox, made)
        except CubeError as error:
            self._metrics.creates.labels(outcome=type(error).__name__).inc()
            raise
        self._metrics.creates.labels(outcome="running").inc()
        return running

    async def get(self, sandbox_id: str, *, team_id: str | None, ended: bool = False) -> Sandbox:
        """Return a sandbox; with `ended` also one that has ended or is on its way there."""
        sandbox = await self._database.transact(lambda uow: uow.sandboxes.find(sandbox_id, team_id=team_id))
        if sandbox is None or (sandbox.state in _GOING and not ended):
            raise SandboxNotFound(sandbox_id)
        return sandbox

    async def page(
        self,
        where: SandboxFilter,
        *,
        template: str | None,
        after: Position | None,
        ascending: bool,
        limit: int,
    ) -> Page:
        """Return up to `limit` sandboxes. A template nobody knows has none."""

        def work(uow: UnitOfWork) -> Page:
            wanted = where
            if template is not None:
                try:
                    wanted = replace(where, template_id=self._catalogue.find(uow, template, team_id=where.team_id))
                except (TemplateNotFound, InvalidRequest):
                    return Page((), None, 0)
            found = uow.sandboxes.page(wanted, after=after, ascending=ascending, limit=limit + 1)
            shown = tuple(found[:limit])
            more = Position(shown[-1].started_at, shown[-1].sandbox_id) if len(found) > limit else None
            running = uow.sandboxes.running_count(where.team_id) if AWAKE & frozenset(where.states) else None
            return Page(shown, more, running)

        return await self._database.transact(work)

    async def set_timeout(
        self, sandbox_id: str, remaining: timedelta, *, team_id: str | None, extend_only: bool
    ) -> Sandbox:
        """Let it end `remaining` from now; with `extend_only` never earlier than it would."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> tuple[Sandbox, Sandbox]:
            before = uow.sandboxes.find(sandbox_id, team_id=team_id, lock=True)
            if before is None:
                raise SandboxNotFound(sandbox_id)
            after = before.with_timeout(remaining, now=now, extend_only=extend_only)
            uow.sandboxes.save(after, was=before.state)
            return before, after

        before, sandbox = await self._database.transact(work)
        if before.end_at == sandbox.end_at:
            return sandbox
        # Should this fail, the row is right and the next heartbeat shows the node's old deadline, which is mended.
        client = await self._nodes.get(sandbox.node_id)
        try:
            with naming(sandbox.node_id):
                await client.set_deadline(sandbox.sandbox_id, sandbox.end_at)
                if sandbox.on_timeout is not OnTimeout.KILL and before.end_at <= now + _NEARLY_OVER:
                    # The node may have paused it before it heard of this.
                    (await self._settling.ask(sandbox)).with_timeout(remaining, now=now, extend_only=extend_only)
        except (Conflict, NotFound):
            await self._settling.try_ask(sandbox)
            raise
        return sandbox

    async def set_egress(
        self, sandbox_id: str, network: SandboxNetwork, private: PrivateRules, *, team_id: str | None
    ) -> None:
        """Replace what it may reach and what is done to its requests, in the row and, while it runs, on its node.

        A paused one wakes up under it.

        Should the node not hear of it, the row is right and the next heartbeat shows the node's old rules, which are
        replaced then.
        """

        def work(uow: UnitOfWork) -> Sandbox:
            found = uow.sandboxes.find(sandbox_id, team_id=team_id)
            if found is None:
                raise SandboxNotFound(sandbox_id)
            # The team before the row, as every create does.
            uow.keys.lock_team(found.team_id)
            before = uow.sandboxes.find(sandbox_id, lock=True)
            if before is None:
                raise SandboxNotFound(sandbox_id)
            after = before.with_egress(network)
            check_network(after.network)
            named = check_private(private, tokens=after.workload_tokens)
            after = replace(after, rules=self._policies.keep(uow, private, named, team_id=after.team_id))
            uow.sandboxes.save_rules(after, sealed_rules=self._policies.seal(private, after.sandbox_id))
            return after

        sandbox = await self._database.transact(work)
        reach("egress:written")
        await self.send_egress(sandbox)

    async def send_egress(self, sandbox: Sandbox) -> None:
        """Make its node follow the rules in its row, which `sandbox` is a reading of, while it runs."""
        sandbox_id = sandbox.sandbox_id
        for _ in range(_EGRESS_ATTEMPTS):
            if sandbox.state not in REACHED:
                return
            policy = await self._policies.of(sandbox)
            with naming(sandbox.node_id):
                client = await self._nodes.get(sandbox.node_id)
                await client.set_network(sandbox_id, policy)
            # Updates side by side may reach the node in another order than the rows were written: the row is right.
            now = await self._database.transact(lambda uow: uow.sandboxes.find(sandbox_id))
            if now is None or now.rules.revision == policy.revision:
                return
            sandbox = now
        raise Conflict(f"the network rules of {sandbox_id} are being changed by others at the same time; try again")

    async def kill(self, sandbox_id: str, *, team_id: str | None) -> None:
        """Kill it in whatever state it is. If its node does not answer, it dies when the node does."""

        def work(uow: UnitOfWork) -> Sandbox:
            before = uow.sandboxes.find(sandbox_id, team_id=team_id, lock=True)
            if before is None:
                raise SandboxNotFound(sandbox_id)
            after = before.killing()
            uow.sandboxes.save(after, was=before.state)
            uow.nodes.release(before, after)
            return after

        sandbox = await self._database.transact(work)
        await self._routes.publish(sandbox)
        await self.finish_kill(sandbox)

    async def finish_kill(self, sandbox: Sandbox) -> None:
        """Carry out the intent that a `killing` row records."""
        await self._delete_on_node(sandbox)
        await self._endings.end(sandbox.sandbox_id, EndReason.KILLED, detail="", at=self._clock.now())

    async def abandon(self, sandbox: Sandbox, detail: str) -> None:
        """End a create that did not succeed, once its node surely has nothing of it."""
        await self._delete_on_node(sandbox)
        await self._endings.end(sandbox.sandbox_id, EndReason.FAILED_START, detail=detail, at=self._clock.now())

    async def _create(self, wish: Wish, named: Named) -> Sandbox:
        started = time.perf_counter()
        sandbox = await self._database.transact(
            lambda uow: intend(
                uow,
                wish,
                named,
                catalogue=self._catalogue,
                policies=self._policies,
                quota=self._quota,
                now=self._clock.now(),
            )
        )
        intended = time.perf_counter()
        made = await self._start_on_node(
            sandbox, template_id=sandbox.template_id, build_id=sandbox.build_id, env_vars=wish.env_vars
        )
        on_node = time.perf_counter()
        running = await self._record_running(sandbox, made)
        recorded = time.perf_counter()
        for stage, seconds in (
            ("intent", intended - started),
            ("node", on_node - intended),
            ("record", recorded - on_node),
        ):
            self._metrics.create_seconds.labels(stage=stage).observe(seconds)
        return running

    async def _start_on_node(
        self, sandbox: Sandbox, *, template_id: TemplateId, build_id: BuildId, env_vars: Mapping[str, str]
    ) -> NodeSandbox:
        reach("create:written")
        try:
            request = CreateSandbox(
                template_id=template_id,
                build_id=build_id,
                end_at=sandbox.end_at,
                env_vars=dict(env_vars),
                access_token=self._tokens.access(sandbox),
                on_timeout=NodeOnTimeout(sandbox.on_timeout),
                network=await self._policies.of(sandbox),
                volumes=tuple(NodeVolumeMount(volume_id=one.volume_id, path=one.path) for one in sandbox.volumes),
            )
            with naming(sandbox.node_id):
                client = await self._nodes.get(sandbox.node_id)
                return await client.create_sandbox(sandbox.sandbox_id, request)
        except Unavailable as error:
            # It may have started without our hearing of it.
            await self._try_abandon(sandbox, error.message)
            raise
        except CubeError as error:
            # The node's own verdict: nothing of it is left there.
            await self._endings.end(
                sandbox.sandbox_id, EndReason.FAILED_START, detail=error.message, at=self._clock.now()
            )
            raise

    async def _record_running(self, sandbox: Sandbox, made: NodeSandbox) -> Sandbox:
        reach("create:carried-out")
        running = sandbox.started(
            address=made.address, envd_version=made.envd_version, at=made.started_at, generation=made.generation
        )

        def work(uow: UnitOfWork) -> bool:
            if not uow.sandboxes.save(running, was=SandboxState.CREATING):
                return False
            uow.events.add(
                "sandbox_started",
                at=running.started_at,
                team_id=running.team_id,
                sandbox_id=running.sandbox_id,
                node_id=running.node_id,
                detail={"pooled": str(made.pooled).lower()},
            )
            return True

        try:
            # Side by side: a proxy that learns of the route early finds a sandbox that runs.
            recorded, _ = await asyncio.gather(self._database.transact(work), self._routes.publish(running))
        except Unavailable as error:
            await self._try_abandon(sandbox, error.message)
            raise
        if not recorded:
            # Killed, or given up with its node, while it was starting.
            await self._try_abandon(sandbox, "it was killed while it was being created")
            raise SandboxTransitioning(sandbox.sandbox_id, "killed")
        return running

    async def _twin(self, wish: Wish) -> Sandbox:
        """Return the sandbox that an earlier call with the same idempotency key made or is making."""
        key = wish.idempotency_key
        assert key is not None
        give_up = self._clock.monotonic() + self._create_deadline.total_seconds()
        while self._clock.monotonic() < give_up:
            twin = await self._database.transact(lambda uow: uow.sandboxes.find_by_idempotency_key(wish.team_id, key))
            if twin is None:
                # It failed, and gave the key back.
                return await self.create(wish)
            if twin.state in REACHED:
                return twin
            if twin.state is not SandboxState.CREATING:
                raise Conflict(
                    f"the sandbox of this idempotency key, {twin.sandbox_id}, is '{twin.state}'; use another key"
                )
            await asyncio.sleep(_TWIN_POLL_S)
        raise DeadlineExceeded("the first create of this idempotency key", self._create_deadline.total_seconds())

    async def _try_abandon(self, sandbox: Sandbox, detail: str) -> None:
        """Abandon it now if that is possible; else the reconciler of unfinished sandboxes will."""
        # A route may be out already; whatever becomes of the row, nobody shall follow it.
        await self._routes.publish(replace(sandbox, state=SandboxState.KILLING))
        try:
            await self.abandon(sandbox, detail)
        except Unavailable as error:
            log.warning("create_not_undone_yet", sandbox_id=sandbox.sandbox_id, error=error.message)

    async def _delete_on_node(self, sandbox: Sandbox) -> None:
        with naming(sandbox.node_id):
            client = await self._nodes.get(sandbox.node_id)
            await client.delete_sandbox(sandbox.sandbox_id)
