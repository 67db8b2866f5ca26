from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, Response

from appliance.contracts.master import Connected, NewConnect, NewPause, NewResume, Route, SandboxView
from appliance.contracts.node import Pause
from appliance.cubemaster.mapping import sandbox_view
from appliance.cubemaster.services.pausing import Pausing
from appliance.cubemaster.services.resuming import Resuming
from appliance.cubemaster.services.route_table import RouteTable
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.cubemaster.services.tokens import SandboxTokens
from appliance.domain.errors import SandboxNotFound
from appliance.domain.sandbox import Sandbox


def lifecycle_router(
    sandboxes: SandboxService, routes: RouteTable, tokens: SandboxTokens, pausing: Pausing, resuming: Resuming
) -> APIRouter:
    router = APIRouter(prefix="/v1")

    def view(sandbox: Sandbox) -> SandboxView:
        return sandbox_view(sandbox, access_token=tokens.access(sandbox), traffic_token=tokens.traffic(sandbox))

    def answered(sandbox: Sandbox) -> Route:
        found = routes.route_of(sandbox)
        if found is None:
            raise SandboxNotFound(sandbox.sandbox_id)
        return found

    @router.post("/sandboxes/{sandbox_id}/pause", status_code=204)
    async def pause(sandbox_id: str, new: NewPause) -> Response:
        asked = Pause(memory=new.memory, require_healthy_guest=new.require_healthy_guest)
        await pausing.pause(sandbox_id, asked, team_id=new.team_id)
        return Response(status_code=204)

    @router.post("/sandboxes/{sandbox_id}/resume", status_code=201)
    async def resume(sandbox_id: str, new: NewResume) -> SandboxView:
        timeout = timedelta(seconds=new.timeout_s)
        return view(
            await resuming.resume(
                sandbox_id, timeout, team_id=new.team_id, memory=new.memory, auto_pause=new.auto_pause
            )
        )

    @router.post("/sandboxes/{sandbox_id}/connect")
    async def connect(sandbox_id: str, new: NewConnect) -> Connected:
        timeout = timedelta(seconds=new.timeout_s)
        sandbox, resumed = await resuming.connect(sandbox_id, timeout, team_id=new.team_id, memory=new.memory)
        return Connected(sandbox=view(sandbox), resumed=resumed)

    @router.get("/routes/{sandbox_id}")
    async def route(sandbox_id: str) -> Route:
        return answered(await sandboxes.get(sandbox_id, team_id=None))

    @router.post("/routes/{sandbox_id}/wake")
    async def wake(sandbox_id: str) -> Route:
        return answered(await resuming.wake(sandbox_id))

    return router
