"""Routes in Redis, where CubeProxy reads them: a copy of what the rows say, which may vanish at any moment.

A write that fails is never the caller's failure: the proxy asks CubeMaster for a route it does not find. It makes the
table doubtful, and the next check rebuilds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from appliance.contracts.master import Route
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.services.tokens import SandboxTokens
from appliance.domain.errors import Unavailable
from appliance.domain.ids import SandboxId
from appliance.domain.sandbox import REACHED, VISIBLE, Sandbox, SandboxState

log = structlog.get_logger()

CHANNEL = "cube:routes"
"""Carries the id of each sandbox whose route changed."""
_PREFIX = "cube:route:"
_COMPLETE = "cube:routes-complete"
"""Present while the table holds every route: what was flushed misses this too."""
_REBUILDING = "cube:routes-rebuilding"
"""Becomes `_COMPLETE` at the end of a rebuild. A flush in between takes it away: half a table is never complete."""
_WRITE_LIMIT = timedelta(milliseconds=250)
_REBUILD_LIMIT = timedelta(seconds=10)
_BATCH = 500


class RouteTable:
    def __init__(self, redis: Redis, database: Database, tokens: SandboxTokens) -> None:
        self._redis = redis
        self._database = database
        self._tokens = tokens
        # A CubeMaster that was killed between a row and its route may have left a route that leads to nobody, or soon
        # to another sandbox that got the address.
        self._doubtful = True

    def route_of(self, sandbox: Sandbox) -> Route | None:
        """Return where traffic for the sandbox goes, or whether it may be woken; None where it leads nowhere."""
        if sandbox.state not in VISIBLE:
            return None
        running = sandbox.state in REACHED and sandbox.address is not None
        return Route(
            node=sandbox.node_id,
            address=sandbox.address if running else None,
            state="running" if running else "paused" if sandbox.state is SandboxState.PAUSED else "transitioning",
            auto_resume=sandbox.wakes,
            traffic_token_sha256=self._tokens.traffic_sha256(sandbox),
            mask_request_host=sandbox.network.mask_request_host,
            https_ports=sandbox.network.https_ports,
        )

    def stored_route_of(self, sandbox: Sandbox) -> Route | None:
        """Return what Redis shall hold of it: a route that traffic can take now."""
        if sandbox.state not in REACHED or sandbox.address is None:
            return None
        return self.route_of(sandbox)

    async def publish(self, sandbox: Sandbox) -> None:
        """Make the table say what `sandbox` says: a route, or none."""
        route = self.stored_route_of(sandbox)
        key = _PREFIX + sandbox.sandbox_id
        try:
            async with asyncio.timeout(_WRITE_LIMIT.total_seconds()):
                pipeline = self._redis.pipeline(transaction=False)
                if route is None:
                    pipeline.delete(key)
                else:
                    pipeline.set(key, route.model_dump_json())
                pipeline.publish(CHANNEL, sandbox.sandbox_id)
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._doubt(error)

    async def publish_if_true(self, sandbox: Sandbox) -> None:
        """Publish it, and take it back if the row has changed meanwhile: that change may have been published before."""
        await self.publish(sandbox)
        if self.stored_route_of(sandbox) is None:
            # A missing route harms nobody: it is asked for.
            return
        now = await self._database.transact(lambda uow: uow.sandboxes.find(sandbox.sandbox_id))
        if now is not None and self.stored_route_of(now) != self.stored_route_of(sandbox):
            await self.publish(now)

    async def check(self) -> None:
        """Rebuild the table if it was flushed, if a write to it failed, and once after the start."""
        try:
            async with asyncio.timeout(_REBUILD_LIMIT.total_seconds()):
                if self._doubtful or not await self._redis.exists(_COMPLETE):
                    await self._rebuild()
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            self._doubt(error)

    async def _rebuild(self) -> None:
        # Cleared first: a write that fails from here on makes it doubtful again.
        self._doubtful = False
        await self._redis.set(_REBUILDING, "1")
        routes = await self._running()
        for ids in _batches(list(routes)):
            await self._redis.mset({_PREFIX + one: routes[one].model_dump_json() for one in ids})
        # What ended since the first look may have been written after it was withdrawn. What ends after the second look
        # is withdrawn after all these writes.
        running = await self._running()
        stale = [one async for one in self._stored() if one not in running]
        for ids in _batches(stale):
            await self._redis.delete(*(_PREFIX + one for one in ids))
        pipeline = self._redis.pipeline(transaction=False)
        for one in stale:
            pipeline.publish(CHANNEL, one)
        # An error where the key is gone: the table was flushed meanwhile, and stays doubtful.
        pipeline.rename(_REBUILDING, _COMPLETE)
        await pipeline.execute()
        log.info("routes_rebuilt", routes=len(routes), stale=len(stale))

    async def _running(self) -> Mapping[SandboxId, Route]:
        running = await self._database.transact(lambda uow: uow.sandboxes.in_state(*REACHED))
        return {one.sandbox_id: route for one in running if (route := self.stored_route_of(one))}

    async def _stored(self) -> AsyncIterator[SandboxId]:
        async for key in self._redis.scan_iter(match=_PREFIX + "*", count=_BATCH):
            yield SandboxId(key.decode().removeprefix(_PREFIX))

    def _doubt(self, error: Exception) -> None:
        if not self._doubtful:
            log.warning("routes_not_published", error=f"{type(error).__name__}: {error}")
        self._doubtful = True


def _batches(ids: Sequence[SandboxId]) -> Iterator[Sequence[SandboxId]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
