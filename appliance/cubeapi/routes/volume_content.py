"""What is in a volume, for whoever has its token: E2B's content API, passed through to the guest that has the volume.

No key is asked for, and none would do. SDKs send these calls to `https://api.<domain>`, or `E2B_VOLUME_API_URL`.
"""

# No postponed annotations: FastAPI reads those of routes that are local functions.

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from appliance.clients.master import MasterClient
from appliance.common.http import Answer
from appliance.common.relay import Relay
from appliance.contracts import e2b_volumes as e2b
from appliance.cubeapi.content_errors import PREFIX, checked
from appliance.domain.errors import InvalidRequest, Unauthenticated
from appliance.domain.volume import parse_volume_id

_IDLE = timedelta(seconds=180)
"""Longer than CubeMaster waits, so that its reason arrives."""
_BYTES: dict[str, Any] = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

Path = Annotated[str, Query(min_length=1, max_length=4096, description="Path in the volume")]
Owner = Annotated[int | None, Query(ge=0, le=e2b.MAX_UINT32)]
Force = Annotated[bool | None, Query(description="Make parents, or replace what is there")]


def router(master: MasterClient) -> APIRouter:
    routes = APIRouter(prefix=f"{PREFIX}/{{volume_id}}")

    def relay(
        request: Request,
        volume_id: str,
        kind: str,
        *,
        success: int,
        change: e2b.EntryChange | None = None,
        media_type: str = "application/json",
        **params: str | int | bool | None,
    ) -> Relay:
        known, token = parse_volume_id(volume_id), _token(request)
        is_upload = request.method == "PUT"
        headers = {"Authorization": f"Bearer {token}", **(_described(request) if is_upload else {})}
        if change is not None:
            headers["Content-Type"] = "application/json"
        given = [(name, _text(value)) for name, value in params.items() if value is not None]

        def ask(body: AsyncIterator[bytes]) -> AbstractAsyncContextManager[Answer]:
            sent = body if is_upload else None if change is None else _json(change)
            asked = master.volumes.content(
                request.method, known, kind, params=given, headers=headers, body=sent, idle=_IDLE
            )
            return checked(asked, success=success)

        # What a guest calls its files is not for browsers to guess at.
        safe = {"X-Content-Type-Options": "nosniff"}
        return Relay(ask, media_type=media_type, idle=_IDLE, takes_body=is_upload, headers=safe)

    @routes.get("/path", response_model=e2b.EntryStat)
    async def stat(volume_id: str, request: Request, path: Path) -> Relay:
        return relay(request, volume_id, "path", success=200, path=path)

    @routes.patch("/path", response_model=e2b.EntryStat)
    async def change(volume_id: str, request: Request, path: Path, body: e2b.EntryChange) -> Relay:
        return relay(request, volume_id, "path", success=200, change=body, path=path)

    @routes.delete("/path", status_code=204)
    async def remove(volume_id: str, request: Request, path: Path) -> Relay:
        return relay(request, volume_id, "path", success=204, path=path)

    @routes.get("/dir", response_model=list[e2b.EntryStat])
    async def list_dir(
        volume_id: str, request: Request, path: Path, depth: Annotated[int, Query(ge=0, le=e2b.MAX_UINT32)] = 1
    ) -> Relay:
        return relay(request, volume_id, "dir", success=200, path=path, depth=depth)

    @routes.post("/dir", status_code=201, response_model=e2b.EntryStat)
    async def make_dir(
        volume_id: str,
        request: Request,
        path: Path,
        *,
        uid: Owner = None,
        gid: Owner = None,
        mode: Owner = None,
        force: Force = None,
    ) -> Relay:
        return relay(request, volume_id, "dir", success=201, path=path, uid=uid, gid=gid, mode=mode, force=force)

    @routes.get("/file", responses={200: _BYTES}, response_class=Response)
    async def download(volume_id: str, request: Request, path: Path) -> Relay:
        return relay(request, volume_id, "file", success=200, media_type="application/octet-stream", path=path)

    @routes.put("/file", status_code=201, response_model=e2b.EntryStat, openapi_extra={"requestBody": _BYTES})
    async def upload(
        volume_id: str,
        request: Request,
        path: Path,
        *,
        uid: Owner = None,
        gid: Owner = None,
        mode: Owner = None,
        force: Force = None,
    ) -> Relay:
        return relay(request, volume_id, "file", success=201, path=path, uid=uid, gid=gid, mode=mode, force=force)

    return routes


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the volume's token is missing: send it as Authorization: Bearer <token>")
    return token.strip()


def _described(request: Request) -> dict[str, str]:
    """Return what of an upload's head goes with it."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("Content-Encoding is not taken: what is sent is what is stored")
    length = request.headers.get("content-length")
    return {"Content-Type": "application/octet-stream", **({"Content-Length": length} if length is not None else {})}


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def _json(change: e2b.EntryChange) -> AsyncIterator[bytes]:
    yield change.model_dump_json(exclude_none=True).encode()
