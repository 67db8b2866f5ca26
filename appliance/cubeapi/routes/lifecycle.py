"""Pause, resume and connect, in every generation that released SDKs call."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b
from appliance.contracts.master import NewConnect, NewPause, NewResume, ResolvedKey
from appliance.cubeapi import mapping
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.settings import CubeApiSettings


def router(master: MasterClient, authenticate: Authenticator, settings: CubeApiSettings) -> APIRouter:
    routes = APIRouter(prefix="/sandboxes")
    both = APIRouter()
    key_of = Depends(authenticate)

    @routes.post("/{path_id}/pause", status_code=204)
    async def pause(path_id: str, key: Annotated[ResolvedKey, key_of], body: e2b.Pause | None = None) -> Response:
        asked = body or e2b.Pause()
        await master.pause_sandbox(
            mapping.sandbox_id(path_id),
            NewPause(team_id=key.team_id, memory=asked.memory, require_healthy_guest=asked.requireHealthyGuest),
        )
        return Response(status_code=204)

    @routes.post("/{path_id}/resume", status_code=201, response_model_exclude_none=True)
    async def resume(path_id: str, key: Annotated[ResolvedKey, key_of], body: e2b.Resume | None = None) -> e2b.Sandbox:
        asked = body or e2b.Resume()
        view = await master.resume_sandbox(
            mapping.sandbox_id(path_id),
            NewResume(
                team_id=key.team_id,
                timeout_s=mapping.timeout_s(asked.timeout, max_hours=settings.max_timeout_hours),
                memory=asked.memory is not False,
                auto_pause=asked.autoPause,
            ),
        )
        return mapping.sandbox(view, domain=settings.domain)

    async def connect(
        path_id: str, seconds: int, memory: bool | None, key: ResolvedKey, response: Response
    ) -> e2b.Sandbox:
        connected = await master.connect_sandbox(
            mapping.sandbox_id(path_id),
            NewConnect(
                team_id=key.team_id,
                timeout_s=mapping.timeout_s(seconds, max_hours=settings.max_timeout_hours),
                memory=memory is not False,
            ),
        )
        response.status_code = 201 if connected.resumed else 200
        return mapping.sandbox(connected.sandbox, domain=settings.domain)

    @routes.post("/{path_id}/connect", response_model_exclude_none=True)
    async def connect_v1(
        path_id: str, body: e2b.ConnectV1, key: Annotated[ResolvedKey, key_of], response: Response
    ) -> e2b.Sandbox:
        return await connect(path_id, body.timeout, body.memory, key, response)

    @both.post("/v2/sandboxes/{path_id}/connect", response_model_exclude_none=True)
    async def connect_v2(
        path_id: str, key: Annotated[ResolvedKey, key_of], response: Response, body: e2b.ConnectV2 | None = None
    ) -> e2b.Sandbox:
        asked = body or e2b.ConnectV2()
        return await connect(path_id, asked.timeout, asked.memory, key, response)

    both.include_router(routes)
    return both
