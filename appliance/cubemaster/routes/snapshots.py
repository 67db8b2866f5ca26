from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from appliance.common.http import status_of
from appliance.contracts.errors import ErrorBody
from appliance.contracts.master import (
    Forked,
    NewFork,
    NewRollback,
    NewSnapshot,
    SandboxView,
    SnapshotPage,
    SnapshotView,
)
from appliance.cubemaster.mapping import page_cursor, page_position, sandbox_view, snapshot_view
from appliance.cubemaster.services.forks import ForkService
from appliance.cubemaster.services.rollbacks import Rollbacks
from appliance.cubemaster.services.snapshots import SnapshotService
from appliance.cubemaster.services.tokens import SandboxTokens
from appliance.domain.errors import CubeError
from appliance.domain.sandbox import Sandbox


def snapshots_router(
    snapshots: SnapshotService, forks: ForkService, rollbacks: Rollbacks, tokens: SandboxTokens
) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/sandboxes/{sandbox_id}/snapshots", status_code=201)
    async def take(sandbox_id: str, new: NewSnapshot) -> SnapshotView:
        return snapshot_view(await snapshots.take(sandbox_id, team_id=new.team_id, name=new.name, memory=new.memory))

    @router.get("/snapshots")
    async def page(
        team_id: str | None = None,
        sandbox_id: str | None = None,
        name: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        cursor: str | None = None,
    ) -> SnapshotPage:
        found, more = await snapshots.page(
            team_id=team_id, sandbox_id=sandbox_id, name=name, after=page_position(cursor), limit=limit
        )
        return SnapshotPage(snapshots=tuple(snapshot_view(one) for one in found), next_cursor=page_cursor(more))

    @router.post("/sandboxes/{sandbox_id}/fork", status_code=201)
    async def fork(sandbox_id: str, new: NewFork) -> list[Forked]:
        remaining = timedelta(seconds=new.timeout_s)
        copies = await forks.fork(sandbox_id, team_id=new.team_id, remaining=remaining, count=new.count)
        return [forked(one) for one in copies]

    def forked(copy: Sandbox | CubeError) -> Forked:
        if isinstance(copy, CubeError):
            return Forked(error=ErrorBody(code=status_of(copy), message=copy.message))
        return Forked(sandbox=shown(copy))

    @router.post("/sandboxes/{sandbox_id}/rollback")
    async def roll_back(sandbox_id: str, new: NewRollback) -> SandboxView:
        return shown(await rollbacks.roll_back(sandbox_id, new.snapshot, team_id=new.team_id))

    def shown(sandbox: Sandbox) -> SandboxView:
        return sandbox_view(sandbox, access_token=tokens.access(sandbox), traffic_token=tokens.traffic(sandbox))

    return router
