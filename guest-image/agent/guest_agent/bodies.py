"""A request's body and its end, which uvicorn does not limit."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Receive

from guest_agent.errors import HttpError

MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
"""Of a plain HTTP route's JSON."""


async def read_document(request: Request) -> bytes:
    """Return the whole body, or raise HttpError 413."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise HttpError(413, f"the request body is larger than {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


async def disconnected(receive: Receive) -> None:
    """Return when the client has left. What comes of a body meanwhile is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
