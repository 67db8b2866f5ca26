"""Volumes of this node, and what is on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Literal

from fastapi import APIRouter, Request, Response

from appliance.clients.guest_volumes import volume_content
from appliance.common.http import Answer
from appliance.common.relay import Relay
from appliance.contracts.node_volumes import NewNodeVolume, NodeVolume
from appliance.cubelet.mapping import node_volume
from appliance.cubelet.services.volumes import Volumes
from appliance.domain.ids import VolumeId

_WITH_BODY = ("PUT", "PATCH")


def router(volumes: Volumes, *, content_idle: timedelta) -> APIRouter:
    routes = APIRouter(prefix="/v1/volumes")

    @routes.put("/{volume_id}", status_code=204)
    async def create(volume_id: str, body: NewNodeVolume) -> Response:
        await volumes.create(VolumeId(volume_id), size_mib=body.size_mib)
        return Response(status_code=204)

    @routes.get("")
    async def list_all() -> list[NodeVolume]:
        return [node_volume(volume, sandbox_id) for volume, sandbox_id in volumes.list()]

    @routes.delete("/{volume_id}", status_code=204)
    async def delete(volume_id: str) -> Response:
        await volumes.delete(VolumeId(volume_id))
        return Response(status_code=204)

    @routes.api_route("/{volume_id}/content/{kind}", methods=["GET", "PUT", "POST", "PATCH", "DELETE"])
    async def content(volume_id: str, kind: Literal["path", "dir", "file"], request: Request) -> Relay:
        takes_body = request.method in _WITH_BODY

        @asynccontextmanager
        async def ask(body: AsyncIterator[bytes]) -> AsyncIterator[Answer]:
            async with (
                volumes.served(VolumeId(volume_id)) as (address, slot),
                volume_content(
                    address,
                    slot,
                    method=request.method,
                    kind=kind,
                    params=request.query_params.multi_items(),
                    body=body if takes_body else None,
                    idle=content_idle,
                ) as answer,
            ):
                yield answer

        is_file = kind == "file" and request.method == "GET"
        return Relay(
            ask,
            # The guest's own word for it could be anything.
            media_type="application/octet-stream" if is_file else "application/json",
            idle=content_idle,
            takes_body=takes_body,
        )

    return routes
