"""POST /files: writing files, by multipart form or as a raw body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from guest_agent.context import Context
from guest_agent.errors import HttpError
from guest_agent.files.encodings import decoded
from guest_agent.files.multipart import receive_parts
from guest_agent.files.target import Target
from guest_agent.filesystem.metadata import metadata_from_headers
from guest_agent.users import User


class Uploads:
    """Writes as root and gives the files, and the directories they need, to the user."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def endpoint(self, request: Request) -> ASGIApp:
        query = request.query_params
        path = query.get("path", "")
        user = self._context.user(query.get("username") or None)
        metadata = metadata_from_headers(request.headers.items())
        content_type = request.headers.get("content-type", "")
        body = decoded(request.stream(), request.headers.get("content-encoding"))
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            written = await self._write_parts(body, content_type, path, user, metadata)
        elif kind == "application/octet-stream":
            written = [await self._write_raw(body, path, user, metadata)]
        else:
            raise HttpError(400, f"unsupported Content-Type: {content_type!r}")
        return JSONResponse([target.describe() for target in written])

    async def _write_raw(
        self, body: AsyncIterator[bytes], path: str, user: User, metadata: Mapping[str, str]
    ) -> Target:
        if not path:
            raise HttpError(400, "missing path query parameter")
        with Target(self._context.path(path, user), user, metadata) as target:
            async for chunk in body:
                target.write(chunk)
        return target

    async def _write_parts(
        self,
        body: AsyncIterator[bytes],
        content_type: str,
        path: str,
        user: User,
        metadata: Mapping[str, str],
    ) -> list[Target]:
        written: dict[str, Target] = {}

        def open_part(file_name: str) -> Target:
            """Open the target: `path` if the request names one, else the part's own name."""
            if not (path or file_name):
                raise HttpError(400, "the part has no file name and the request no path")
            resolved = self._context.path(path or file_name, user)
            if resolved in written:
                raise HttpError(400, f"you cannot upload multiple files to the same path '{resolved}'")
            target = written[resolved] = Target(resolved, user, metadata)
            return target

        await receive_parts(body, content_type, open_part)
        return list(written.values())
