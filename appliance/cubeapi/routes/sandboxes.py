"""Sandboxes, in every generation of routes that released SDKs call."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

import re
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b
from appliance.contracts.e2b_network import NetworkUpdate
from appliance.contracts.master import NewTimeout, ResolvedKey, SandboxState
from appliance.cubeapi import mapping
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.mapping_network import new_egress
from appliance.cubeapi.routes import lifecycle, snapshots
from appliance.cubeapi.scopes import require_secrets
from appliance.cubeapi.settings import CubeApiSettings
from appliance.domain.errors import InvalidRequest, TemplateNotFound

_IDEMPOTENCY_KEY = re.compile(r"[a-z0-9-]{1,255}")
_DEFAULT_TIMEOUT_V1_S = 15
_DEFAULT_TIMEOUT_V2_S = 300


def router(master: MasterClient, authenticate: Authenticator, settings: CubeApiSettings) -> APIRouter:
    routes = APIRouter()
    key_of = Depends(authenticate)
    routes.include_router(lifecycle.router(master, authenticate, settings))
    routes.include_router(snapshots.router(master, authenticate, settings))

    async def create(
        body: e2b.NewSandbox, key: ResolvedKey, *, secure: bool, default_timeout: int, idempotency_key: str | None
    ) -> e2b.Sandbox:
        if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise InvalidRequest("Invalid Idempotency-Key: expected 1 to 255 of [a-z0-9-]")
        if body.network is not None:
            require_secrets(key, body.network)
        request = mapping.new_sandbox(
            body,
            team_id=key.team_id,
            secure=secure,
            default_timeout=default_timeout,
            max_hours=settings.max_timeout_hours,
            idempotency_key=idempotency_key,
        )
        return mapping.sandbox(await master.create_sandbox(request), domain=settings.domain)

    @routes.post("/sandboxes", status_code=201, response_model_exclude_none=True)
    async def create_v1(
        body: e2b.NewSandbox,
        key: Annotated[ResolvedKey, key_of],
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> e2b.Sandbox:
        return await create(
            body,
            key,
            secure=body.secure is True,
            default_timeout=_DEFAULT_TIMEOUT_V1_S,
            idempotency_key=idempotency_key,
        )

    @routes.post("/v2/sandboxes", status_code=201, response_model_exclude_none=True)
    async def create_v2(
        body: e2b.NewSandbox,
        key: Annotated[ResolvedKey, key_of],
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> e2b.Sandbox:
        return await create(
            body, key, secure=True, default_timeout=_DEFAULT_TIMEOUT_V2_S, idempotency_key=idempotency_key
        )

    @routes.get("/sandboxes", response_model_exclude_none=True)
    async def list_v1(key: Annotated[ResolvedKey, key_of], metadata: str = "") -> list[e2b.ListedSandbox]:
        page = await master.list_sandboxes(
            team_id=key.team_id, states=mapping.PUBLIC_STATES["running"], metadata=mapping.metadata_filter(metadata)
        )
        return [mapping.listed_sandbox(view) for view in page.sandboxes]

    @routes.get("/v2/sandboxes", response_model_exclude_none=True)
    async def list_v2(
        response: Response,
        key: Annotated[ResolvedKey, key_of],
        *,
        metadata: str = "",
        state: Annotated[list[str] | None, Query()] = None,
        order: Literal["asc", "desc"] = "desc",
        started_after: Annotated[datetime | None, Query(alias="startedAfter")] = None,
        template: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        next_token: Annotated[str | None, Query(alias="nextToken")] = None,
    ) -> list[e2b.ListedSandbox]:
        wanted = mapping.states(state or ())
        try:
            page = await master.list_sandboxes(
                team_id=key.team_id,
                states=wanted,
                template=template,
                metadata=mapping.metadata_filter(metadata),
                order=order,
                started_after=started_after,
                limit=limit,
                cursor=next_token,
            )
        except TemplateNotFound:
            # A filter that matches nothing is an empty list, not an error.
            return []
        if page.next_cursor is not None:
            response.headers["X-Next-Token"] = page.next_cursor
        if page.total_running is not None and (not wanted or SandboxState.RUNNING in wanted):
            response.headers["X-Total-Running"] = str(page.total_running)
        return [mapping.listed_sandbox(view) for view in page.sandboxes]

    # Before `/sandboxes/{path_id}`, which would take `metrics` for an id.
    @routes.get("/sandboxes/metrics")
    async def latest_metrics(
        key: Annotated[ResolvedKey, key_of], sandbox_ids: Annotated[list[str], Query()]
    ) -> e2b.SandboxesMetrics:
        wanted = mapping.sandbox_ids(sandbox_ids)
        found = await master.latest_metrics(wanted, team_id=key.team_id)
        return e2b.SandboxesMetrics(sandboxes={one: mapping.metric(sample) for one, sample in found.items()})

    @routes.get("/sandboxes/{path_id}/metrics")
    async def metrics(
        path_id: str,
        key: Annotated[ResolvedKey, key_of],
        start: Annotated[int | None, Query(ge=0)] = None,
        end: Annotated[int | None, Query(ge=0)] = None,
    ) -> list[e2b.SandboxMetric]:
        samples = await master.get_metrics(
            mapping.sandbox_id(path_id),
            start=mapping.instant(None if start is None else start * 1000),
            end=mapping.instant(None if end is None else end * 1000),
            team_id=key.team_id,
        )
        return [mapping.metric(sample) for sample in samples]

    @routes.get("/sandboxes/{path_id}", response_model_exclude_none=True)
    async def get(path_id: str, key: Annotated[ResolvedKey, key_of]) -> e2b.SandboxDetail:
        view = await master.get_sandbox(mapping.sandbox_id(path_id), team_id=key.team_id)
        return mapping.sandbox_detail(view, domain=settings.domain)

    @routes.delete("/sandboxes/{path_id}", status_code=204)
    async def kill(path_id: str, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.kill_sandbox(mapping.sandbox_id(path_id), team_id=key.team_id)
        return Response(status_code=204)

    @routes.post("/sandboxes/{path_id}/timeout", status_code=204)
    async def set_timeout(path_id: str, body: e2b.Timeout, key: Annotated[ResolvedKey, key_of]) -> Response:
        seconds = mapping.new_timeout_s(body.timeout, max_hours=settings.max_timeout_hours)
        await master.set_timeout(mapping.sandbox_id(path_id), NewTimeout(team_id=key.team_id, timeout_s=seconds))
        return Response(status_code=204)

    @routes.post("/sandboxes/{path_id}/refreshes", status_code=204)
    async def refresh(path_id: str, key: Annotated[ResolvedKey, key_of], body: e2b.Refresh | None = None) -> Response:
        duration = (body or e2b.Refresh()).duration
        await master.set_timeout(
            mapping.sandbox_id(path_id), NewTimeout(team_id=key.team_id, timeout_s=duration, extend_only=True)
        )
        return Response(status_code=204)

    @routes.put("/sandboxes/{path_id}/network", status_code=204)
    async def set_network(path_id: str, body: NetworkUpdate, key: Annotated[ResolvedKey, key_of]) -> Response:
        require_secrets(key, body)
        await master.set_egress(mapping.sandbox_id(path_id), new_egress(body, team_id=key.team_id))
        return Response(status_code=204)

    return routes
