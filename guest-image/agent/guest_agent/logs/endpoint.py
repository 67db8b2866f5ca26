"""GET /logs: for the node alone, which hides this route from everybody else."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from guest_agent.envelope import encode
from guest_agent.errors import HttpError
from guest_agent.logs.page import page
from guest_agent.logs.ring import LogRing


class Logs:
    def __init__(self, ring: LogRing) -> None:
        self._ring = ring

    async def endpoint(self, request: Request) -> ASGIApp:
        query = request.query_params
        number = query.get("after", "0")
        if not (number.isascii() and number.isdecimal() and len(number) <= 18):
            raise HttpError(400, "invalid after: not a number")
        body = encode(page(self._ring, query.get("epoch", ""), int(number)))
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})
