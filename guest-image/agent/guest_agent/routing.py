"""Finding a request's endpoint and answering when that fails.

Every path of the protocol is a constant, so routing is one dictionary look-up.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from guest_agent.auth.access import Access, Gate
from guest_agent.connect import Endpoint, error_response
from guest_agent.errors import Code, HttpError, RpcError, UnknownUser


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    access: Access
    endpoint: Endpoint


_RPC_CODES = {401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 503: Code.UNAVAILABLE}


class Router:
    """The ASGI application: gate, endpoint, errors in the shape the clients parse."""

    def __init__(self, gate: Gate, routes: Iterable[Route], *, on_request: Callable[[], None]) -> None:
        self._gate = gate
        self._on_request = on_request
        self._routes = {(route.method, route.path): route for route in routes}
        self._paths = {route.path for route in self._routes.values()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._on_request()
            request = Request(scope, receive)
            response = await self._answer(request)
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        path = request.scope["path"]
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((method, path))
        if route is None:
            return _error(405, "method not allowed") if path in self._paths else _error(404, "not found")
        try:
            self._gate.check(request, route.access)
            return await route.endpoint(request)
        except Exception as error:
            return _failure(error, is_rpc="." in path)


def _failure(error: Exception, *, is_rpc: bool) -> Response:
    """Return the answer to a request that failed. What nobody foresaw is written to the agent's log."""
    match error:
        case HttpError():
            failed = error
        case UnknownUser():
            failed = HttpError(401, str(error))
        case ClientDisconnect():
            failed = HttpError(400, "the client went away")
        case _:
            traceback.print_exception(error, file=sys.stderr)
            failed = HttpError(500, f"{type(error).__name__}: {error}")
    if is_rpc:
        return error_response(RpcError(_RPC_CODES.get(failed.status, Code.INTERNAL), failed.message))
    return _error(failed.status, failed.message)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"code": status, "message": message}, status)
