"""POST /files/compose: joining uploaded pieces into one file."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from guest_agent.bodies import read_document
from guest_agent.context import Context
from guest_agent.errors import HttpError
from guest_agent.files.target import Target
from guest_agent.users import User

_CHUNK_BYTES = 1024 * 1024


class Compositions:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def endpoint(self, request: Request) -> ASGIApp:
        sources, destination, user_name = _parse(await read_document(request))
        user = self._context.user(user_name)
        resolved = [self._context.path(source, user) for source in sources]
        target = self._context.path(destination, user)
        return JSONResponse(await asyncio.to_thread(compose, resolved, target, user))


def _parse(body: bytes) -> tuple[list[str], str, str | None]:
    try:
        document = json.loads(body)
        sources, destination = document["source_paths"], document["destination"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HttpError(400, f"invalid compose request: {error}") from error
    if not isinstance(sources, list) or not sources or not all(isinstance(item, str) and item for item in sources):
        raise HttpError(400, "invalid source_paths")
    if not isinstance(destination, str) or not destination:
        raise HttpError(400, "invalid destination")
    return sources, destination, document.get("username") or None


def compose(sources: Sequence[str], destination: str, user: User) -> dict[str, object]:
    """Write the sources into `destination` in order, then remove them. Nothing is removed on failure."""
    if destination in sources:
        raise HttpError(400, "the destination is one of the sources")
    for source in sources:
        _require_file(source)
    with Target(destination, user, {}) as target:
        for source in sources:
            with open(source, "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    target.write(chunk)
    for source in dict.fromkeys(sources):
        Path(source).unlink(missing_ok=True)
    return target.describe()


def _require_file(path: str) -> None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - plain strings on this path
    except OSError as error:
        raise HttpError(404, f"path '{path}' does not exist") from error
    if not stat.S_ISREG(mode):
        raise HttpError(400, f"path '{path}' is not a regular file")
