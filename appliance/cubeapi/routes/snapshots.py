"""Snapshots of sandboxes, the way back to them, and forks, which are snapshots that nobody keeps."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b
from appliance.contracts.master import NewFork, NewRollback, NewSnapshot, ResolvedKey
from appliance.cubeapi import mapping
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.settings import CubeApiSettings


def router(master: MasterClient, authenticate: Authenticator, settings: CubeApiSettings) -> APIRouter:
    routes = APIRouter()
    key_of = Depends(authenticate)

    @routes.post("/sandboxes/{path_id}/snapshots", status_code=201)
    async def take(
        path_id: str, key: Annotated[ResolvedKey, key_of], body: e2b.NewSnapshot | None = None
    ) -> e2b.Snapshot:
        asked = body or e2b.NewSnapshot()
        new = NewSnapshot(team_id=key.team_id, name=asked.name, memory=asked.memory)
        return mapping.snapshot(await master.take_snapshot(mapping.sandbox_id(path_id), new))

    @routes.get("/snapshots")
    async def list_page(
        response: Response,
        key: Annotated[ResolvedKey, key_of],
        *,
        sandbox: Annotated[str | None, Query(alias="sandboxID")] = None,
        name: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        next_token: Annotated[str | None, Query(alias="nextToken")] = None,
    ) -> list[e2b.Snapshot]:
        page = await master.list_snapshots(
            team_id=key.team_id,
            sandbox_id=mapping.sandbox_id(sandbox) if sandbox is not None else None,
            name=name,
            limit=limit,
            cursor=next_token,
        )
        if page.next_cursor is not None:
            response.headers["X-Next-Token"] = page.next_cursor
        return [mapping.snapshot(view) for view in page.snapshots]

    @routes.post("/sandboxes/{path_id}/rollback", response_model_exclude_none=True)
    async def roll_back(path_id: str, key: Annotated[ResolvedKey, key_of], body: e2b.NewRollback) -> e2b.Sandbox:
        new = NewRollback(team_id=key.team_id, snapshot=body.snapshotID)
        view = await master.roll_back_sandbox(mapping.sandbox_id(path_id), new)
        return mapping.sandbox(view, domain=settings.domain)

    @routes.post("/sandboxes/{path_id}/fork", status_code=201, response_model_exclude_none=True)
    async def fork(
        path_id: str, key: Annotated[ResolvedKey, key_of], body: e2b.NewFork | None = None
    ) -> list[e2b.Forked]:
        asked = body or e2b.NewFork()
        new = NewFork(
            team_id=key.team_id,
            timeout_s=mapping.timeout_s(asked.timeout, max_hours=settings.max_timeout_hours),
            count=mapping.copies(asked.count),
        )
        copies = await master.fork_sandbox(mapping.sandbox_id(path_id), new)
        return [mapping.forked(copy, domain=settings.domain) for copy in copies]

    return routes
