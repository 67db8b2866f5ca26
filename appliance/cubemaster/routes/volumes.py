from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response

from appliance.common.relay import Relay
from appliance.contracts.volumes import NewVolume, VolumeAndToken, VolumeView
from appliance.cubemaster.persistence.volumes import HeldVolume
from appliance.cubemaster.services.tokens import VolumeTokens
from appliance.cubemaster.services.volume_content import VolumeContent
from appliance.cubemaster.services.volumes import VolumeService

_PASSED_ON = ("content-type", "content-length")


def volumes_router(volumes: VolumeService, content: VolumeContent, tokens: VolumeTokens) -> APIRouter:
    router = APIRouter(prefix="/v1/volumes")

    def view_and_token(held: HeldVolume) -> VolumeAndToken:
        return VolumeAndToken(**_view(held).model_dump(), token=tokens.of(held.volume.volume_id))

    @router.post("", status_code=201)
    async def create(new: NewVolume) -> VolumeAndToken:
        return view_and_token(await volumes.create(new.team_id, new.name))

    @router.get("")
    async def list_all(team_id: str | None = None) -> list[VolumeView]:
        return [_view(one) for one in await volumes.all(team_id=team_id)]

    @router.get("/{volume_id}")
    async def get(volume_id: str, team_id: str | None = None) -> VolumeAndToken:
        return view_and_token(await volumes.get(volume_id, team_id=team_id))

    @router.delete("/{volume_id}", status_code=204)
    async def delete(volume_id: str, team_id: str | None = None) -> Response:
        await volumes.delete(volume_id, team_id=team_id)
        return Response(status_code=204)

    @router.api_route("/{volume_id}/content/{kind}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def pass_on(volume_id: str, kind: Literal["path", "dir", "file"], request: Request) -> Relay:
        takes_body = request.method in ("PUT", "PATCH")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return Relay(
            lambda body: content.ask(
                request.method,
                volume_id,
                kind,
                token=token if scheme.lower() == "bearer" else "",
                params=request.query_params.multi_items(),
                headers={name: request.headers[name] for name in _PASSED_ON if takes_body and name in request.headers},
                body=body if takes_body else None,
            ),
            # CubeAPI, which asks, knows what it gets.
            media_type="application/octet-stream",
            idle=content.idle,
            takes_body=takes_body,
        )

    return router


def _view(held: HeldVolume) -> VolumeView:
    volume = held.volume
    return VolumeView(
        volume_id=volume.volume_id,
        team_id=volume.team_id,
        name=volume.name,
        node_id=volume.node_id,
        size_mib=volume.size_mib,
        created_at=volume.created_at,
        sandbox_id=held.sandbox_id,
    )
