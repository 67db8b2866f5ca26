"""Renews the workload tokens in the header rules of running sandboxes, long before they end.

It gives the rules another name; the next heartbeat of a sandbox's node then finds that it has to be told.
"""

from __future__ import annotations

import structlog

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.cubemaster.persistence.database import Database
from appliance.domain.ids import new_revision
from appliance.domain.workload_token import RENEWED_AFTER

log = structlog.get_logger()

_BATCH = 100
"""Sandboxes at a time: their nodes are told of all of them at about the same time."""


class TokenRenewal:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def step(self) -> None:
        now = self._clock.now()
        revision = new_revision()
        renewed = await self._database.transact(
            lambda uow: uow.sandboxes.renew_tokens(
                now=now, due_again_at=now + RENEWED_AFTER, revision=revision, limit=_BATCH
            )
        )
        if renewed:
            reach("tokens:written")
            log.info("workload_tokens_renewed", sandboxes=renewed)
