"""Volumes of this node, and what is on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Literal

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from appliance.clients.guest_volumes import volume_content
from appliance.contracts.node_volumes import CONTENT_HEADER, NewNodeVolume, NodeVolume
from appliance.cubelet.mapping import node_volume
from appliance.cubelet.services.volumes import Volumes
from appliance.domain.ids import VolumeId


def router(volumes: Volumes, *, content_deadline: timedelta) -> APIRouter:
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
    async def content(volume_id: str, kind: Literal["path", "dir", "file"], request: Request) -> Response:
        return _Content(volumes, VolumeId(volume_id), kind, request, content_deadline)

    return routes


class _Content(Response):
    """An answer that is a guest's, passed on as it comes. It is asked for when this is sent."""

    def __init__(self, volumes: Volumes, volume_id: VolumeId, kind: str, request: Request, deadline: timedelta) -> None:
        super().__init__()
        self._volumes = volumes
        self._volume_id = volume_id
        self._kind = kind
        self._request = request
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._request
        async with (
            self._volumes.served(self._volume_id) as (address, slot),
            volume_content(
                address,
                slot,
                method=request.method,
                kind=self._kind,
                query=request.query_params,
                body=_body(request),
                deadline=self._deadline,
            ) as answer,
        ):
            headers = [
                (b"content-type", answer.media_type.encode()),
                (CONTENT_HEADER.lower().encode(), b"1"),
            ]
            if answer.length is not None and answer.status != 204:
                headers.append((b"content-length", str(answer.length).encode()))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for piece in answer.pieces:
                if request.method == "GET" and await request.is_disconnected():
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _body(request: Request) -> AsyncIterator[bytes] | None:
    has_one = "content-length" in request.headers or "transfer-encoding" in request.headers
    return request.stream() if has_one and request.method in ("PUT", "PATCH") else None
