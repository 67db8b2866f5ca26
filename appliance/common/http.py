"""HTTP between our services: where errors become statuses and statuses become errors again.

Servers call `install_error_handlers`. Callers use `InternalClient`, one keep-alive pool to one service, over a Unix
socket or TCP, which raises the same class of `domain/errors.py` that the service raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from yarl import URL

from appliance.contracts.errors import ErrorBody
from appliance.domain import errors

log = structlog.get_logger()

_PIECE_BYTES = 256 * 1024

_STATUS: tuple[tuple[type[errors.CubeError], int], ...] = (
    (errors.LengthRequired, 411),
    (errors.PayloadTooLarge, 413),
    (errors.InvalidRequest, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Gone, 410),
    (errors.QuotaExceeded, 429),
    (errors.RateLimited, 429),
    (errors.Unavailable, 503),
    (errors.CubeError, 500),
)


def status_of(error: errors.CubeError) -> int:
    """Return the HTTP status of an error, by its most general class."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def error_response(
    status: int, message: str, *, error_code: str | None = None, retry_after_s: int | None = None
) -> JSONResponse:
    """Return the error body of every interface. A status that waiting may cure says so to the SDKs' retry loops."""
    headers = {}
    if status in (429, 503):
        headers["Should-Retry"] = "true" if retry_after_s is not None else "false"
        if retry_after_s is not None:
            headers["Retry-After"] = str(retry_after_s)
    body = ErrorBody(code=status, message=message, error_code=error_code)
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status, headers=headers)


def internal_code(error: errors.CubeError) -> str | None:
    """Name an error for a caller of ours, which raises the same class again."""
    return type(error).__name__


def install_error_handlers(app: FastAPI, *, code_of: Callable[[errors.CubeError], str | None] = internal_code) -> None:
    """Answer every failure of `app` with an ErrorBody, never with FastAPI's `detail`."""

    @app.exception_handler(errors.CubeError)
    async def _ours(_: Request, error: errors.CubeError) -> JSONResponse:
        status = status_of(error)
        if status == 500:
            log.error("request_failed", error=type(error).__name__, message=error.message)
        waiting_helps = (errors.Unavailable, errors.QuotaExceeded, errors.RateLimited)
        retry = error.retry_after_s if isinstance(error, waiting_helps) else None
        return error_response(status, error.message, error_code=code_of(error), retry_after_s=retry)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors())
        return error_response(
            400, f"Invalid request body: {problems}", error_code=code_of(errors.InvalidRequest(problems))
        )

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        log.exception("request_crashed", method=request.method, path=request.url.path, exc_info=error)
        return error_response(500, "internal error; the service's journal has the details")


def raise_for(status: int, body: ErrorBody, *, service: str) -> None:
    """Raise the error that a service of ours answered with, as the class it was there."""
    kind = getattr(errors, body.error_code or "", None)
    if not (isinstance(kind, type) and issubclass(kind, errors.CubeError)):
        kind = {s: k for k, s in reversed(_STATUS)}.get(status, errors.CubeError)
    error: errors.CubeError = Exception.__new__(kind)
    # Subclasses build their message from data that stayed on the other side; the message itself is what crosses.
    errors.CubeError.__init__(error, body.message)
    raise error


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """The head of an answer that a service passes on, and its body."""

    status: int
    media_type: str
    length: int | None
    """Of the body, where it is known."""
    pieces: AsyncIterator[bytes]


class InternalClient:
    """A keep-alive pool to one service. `endpoint` is `unix:///path/to.sock` or an http(s) URL."""

    def __init__(self, endpoint: str, *, service: str, connections: int = 100) -> None:
        self._service = service
        self._connector_of: Callable[[], aiohttp.BaseConnector]
        if endpoint.startswith("unix://"):
            path = endpoint.removeprefix("unix://")
            self._connector_of = lambda: aiohttp.UnixConnector(path=path, limit=connections, keepalive_timeout=60)
            self._base = URL("http://localhost")
        else:
            self._connector_of = lambda: aiohttp.TCPConnector(limit=connections, keepalive_timeout=60)
            self._base = URL(endpoint)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> InternalClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        deadline: timedelta,
        json: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the decoded JSON answer, or None for an empty one.

        Raises the service's own error, or `Unavailable` when it does not answer in time.
        """
        async with self._answer(self._pool(), method, path, deadline=deadline, json=json, params=params) as response:
            return await _decoded(response)

    async def upload(
        self,
        path: str,
        body: AsyncIterator[bytes],
        *,
        length: int,
        deadline: timedelta,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """PUT `length` bytes as they come, and return and raise what `request` does.

        The body is begun when the service asks for it, which it does not where it refuses. Such a request is half
        sent, so the connection is used for nothing else.
        """
        async with (
            aiohttp.ClientSession(connector=self._connector_of()) as session,
            self._answer(
                session,
                "PUT",
                path,
                deadline=deadline,
                params=params,
                data=body,
                expect100=True,
                headers={"Content-Length": str(length), "Connection": "close"},
            ) as response,
        ):
            return await _decoded(response)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, deadline: timedelta, most: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the answer's body piece by piece; the deadline is for all of it.

        Raises as `request` does, and InvalidRequest where the body has more than `most` bytes.
        """
        async with self._answer(self._pool(), method, path, deadline=deadline) as response:

            async def pieces() -> AsyncIterator[bytes]:
                left = most
                async for piece in response.content.iter_chunked(_PIECE_BYTES):
                    left -= len(piece)
                    if left < 0:
                        raise errors.InvalidRequest(f"{self._service} {method} {path} is larger than {most} bytes")
                    yield piece

            yield pieces()

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        *,
        deadline: timedelta,
        theirs: str,
        params: Mapping[str, str] | None = None,
        body: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[StreamedAnswer]:
        """Send `body` as it comes, and yield an answer that the service passes on from somebody else.

        Such an answer has a header of the name `theirs`, and is yielded whatever its status. Others raise as `request`
        does. The deadline is for all of it.
        """
        async with self._answer(
            self._pool(), method, path, deadline=deadline, theirs=theirs, params=params, data=body
        ) as response:
            yield StreamedAnswer(
                status=response.status,
                media_type=response.content_type,
                length=response.content_length,
                pieces=response.content.iter_chunked(_PIECE_BYTES),
            )

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Made here, not in the constructor: a session belongs to the running loop.
            self._session = aiohttp.ClientSession(connector=self._connector_of())
        return self._session

    @asynccontextmanager
    async def _answer(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        *,
        deadline: timedelta,
        theirs: str | None = None,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with session.request(
                method,
                self._base.with_path(path),
                timeout=aiohttp.ClientTimeout(total=deadline.total_seconds()),
                **options,
            ) as response:
                if response.status >= 400 and (theirs is None or theirs not in response.headers):
                    raise_for(
                        response.status, ErrorBody.model_validate(await _decoded(response)), service=self._service
                    )
                yield response
        except TimeoutError as error:
            raise errors.DeadlineExceeded(f"{self._service} {method} {path}", deadline.total_seconds()) from error
        except ValueError as error:
            # Neither JSON nor an error body of ours: whatever answered there, it was not the service.
            raise errors.Unavailable(f"{self._service} {method} {path} got an answer that makes no sense") from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.Unavailable(
                f"{self._service} does not answer ({type(error).__name__}); see `journalctl -u {self._service}`"
            ) from error


async def _decoded(response: aiohttp.ClientResponse) -> Any:
    return await response.json(content_type=None) if response.content_length != 0 else None
