from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.requests import ClientDisconnect

from appliance.contracts.templates import Upload
from appliance.cubemaster.services.template_files import TemplateFiles
from appliance.domain.errors import InvalidRequest, LengthRequired
from appliance.domain.upload_leave import UploadLeave


def template_files_router(files: TemplateFiles) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/template-uploads")
    async def leave(template: str, files_hash: str, team_id: str) -> Upload:
        granted, present = await files.leave(template, files_hash, team_id=team_id)
        return Upload(
            template_id=granted.template_id, present=present, expires=granted.expires, signature=granted.signature
        )

    @router.put("/template-files/{template_id}/{files_hash}", status_code=204)
    async def put(
        template_id: str, files_hash: str, request: Request, expires: int = 0, signature: str = ""
    ) -> Response:
        length = request.headers.get("content-length")
        if length is None:
            raise LengthRequired("an upload must have a Content-Length")
        granted = UploadLeave(template_id, files_hash, expires, signature)
        await files.put(granted, _body(request), length=int(length))
        return Response(status_code=204)

    @router.get("/template-files/{template_id}/{files_hash}")
    async def get(template_id: str, files_hash: str) -> FileResponse:
        return FileResponse(await files.path(template_id, files_hash), media_type="application/octet-stream")

    return router


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise InvalidRequest("the upload was cut off") from error
