"""HTTP between our services: where errors become statuses and statuses become errors again.

Servers call `install_error_handlers`. Callers use `InternalClient`, one keep-alive pool to one service, over a Unix
socket or TCP, which raises the same class of `domain/errors.py` that the service raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
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


def internal_code(error: errors.CubeError) -> str | None:
    """Name an error for a caller of ours, which raises the same class again."""
    return type(error).__name__


def plain_body(_: Request, error: ErrorBody) -> dict[str, Any]:
    """Return an error as almost every interface has it."""
    return error.model_dump(exclude_none=True)


def install_error_handlers(
    app: FastAPI,
    *,
    code_of: Callable[[errors.CubeError], str | None] = internal_code,
    body_of: Callable[[Request, ErrorBody], dict[str, Any]] = plain_body,
) -> None:
    """Answer every failure of `app` with an ErrorBody, or what `body_of` makes of it, never with FastAPI's `detail`."""

    def answer(
        request: Request, status: int, message: str, *, error_code: str | None = None, retry_after_s: int | None = None
    ) -> JSONResponse:
        headers = {}
        if status in (429, 503):
            # What waiting may cure says so to the SDKs' retry loops.
            headers["Should-Retry"] = "true" if retry_after_s is not None else "false"
            if retry_after_s is not None:
                headers["Retry-After"] = str(retry_after_s)
        body = body_of(request, ErrorBody(code=status, message=message, error_code=error_code))
        return JSONResponse(body, status_code=status, headers=headers)

    @app.exception_handler(errors.CubeError)
    async def _ours(request: Request, error: errors.CubeError) -> JSONResponse:
        status = status_of(error)
        if status == 500:
            log.error("request_failed", error=type(error).__name__, message=error.message)
        waiting_helps = (errors.Unavailable, errors.QuotaExceeded, errors.RateLimited)
        retry = error.retry_after_s if isinstance(error, waiting_helps) else None
        return answer(request, status, error.message, error_code=code_of(error), retry_after_s=retry)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors())
        code = code_of(errors.InvalidRequest(problems))
        return answer(request, 400, f"Invalid request body: {problems}", error_code=code)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(request, error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        log.exception("request_crashed", method=request.method, path=request.url.path, exc_info=error)
        return answer(request, 500, "internal error; the service's journal has the details")


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
class Answer:
    """What a service answers, whatever its status. Its body comes as it is read, and is not ours to believe."""

    status: int
    length: int | None
    """Bytes of the body, where that is known beforehand."""
    pieces: AsyncIterator[bytes]

    async def whole(self, *, most: int) -> bytes:
        """Return the body, or raise InvalidRequest where it has more than `most` bytes."""
        body = bytearray()
        async for piece in self.pieces:
            body += piece
            if len(body) > most:
                raise errors.InvalidRequest(f"an answer is larger than {most} bytes")
        return bytes(body)


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
        idle: timedelta,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[Answer]:
        """Send a body as it comes, and yield the answer with its own, both of any size.

        `idle` is how long either may stand still. Raises Unavailable where the service does not answer, and whatever
        `body` raises. What is sent is begun when the service asks for it. Leaving the block ends the call.
        """
        what = f"{self._service} {method} {path}"
        idle_s = idle.total_seconds()
        # On a connection of its own: those who read slowly hold up nobody else's calls.
        async with aiohttp.ClientSession(
            connector=self._connector_of(), timeout=aiohttp.ClientTimeout(), auto_decompress=False
        ) as session:
            with self._translated(what, idle_s):
                async with asyncio.timeout(idle_s) as limit:
                    sending = None if body is None else _Sending(body, limit, idle_s)
                    try:
                        response = await session.request(
                            method,
                            self._base.with_path(path),
                            params=params,
                            headers={**(headers or {}), "Accept-Encoding": "identity", "Connection": "close"},
                            data=None if sending is None else sending.pieces(),
                            expect100=sending is not None,
                            # Where to go next is not for those to say who answer.
                            allow_redirects=False,
                        )
                    except aiohttp.ClientError:
                        if sending is not None and sending.broke is not None:
                            raise sending.broke from None
                        raise
                    finally:
                        if sending is not None:
                            sending.unbound()

            async def pieces() -> AsyncIterator[bytes]:
                with self._translated(what, idle_s):
                    while True:
                        async with asyncio.timeout(idle_s):
                            piece = await response.content.readany()
                        if not piece:
                            return
                        yield piece

            try:
                yield Answer(response.status, response.content_length, pieces())
            finally:
                response.close()

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Made here, not in the constructor: a session belongs to the running loop.
            self._session = aiohttp.ClientSession(connector=self._connector_of())
        return self._session

    @asynccontextmanager
    async def _answer(
        self, session: aiohttp.ClientSession, method: str, path: str, *, deadline: timedelta, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        with self._translated(f"{self._service} {method} {path}", deadline.total_seconds()):
            async with session.request(
                method,
                self._base.with_path(path),
                timeout=aiohttp.ClientTimeout(total=deadline.total_seconds()),
                **options,
            ) as response:
                if response.status >= 400:
                    raise_for(
                        response.status, ErrorBody.model_validate(await _decoded(response)), service=self._service
                    )
                yield response

    @contextmanager
    def _translated(self, what: str, deadline_s: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise errors.DeadlineExceeded(what, deadline_s) from error
        except ValueError as error:
            # Neither JSON nor an error body of ours: whatever answered there, it was not the service.
            raise errors.Unavailable(f"{what} got an answer that makes no sense") from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.Unavailable(
                f"{self._service} does not answer ({type(error).__name__}); see `journalctl -u {self._service}`"
            ) from error


class _Sending:
    """A body on its way: each piece moves the time limit of its call. Keeps why it broke off, where it did."""

    def __init__(self, body: AsyncIterator[bytes], limit: asyncio.Timeout, idle_s: float) -> None:
        self._body = body
        self._limit: asyncio.Timeout | None = limit
        self._idle_s = idle_s
        self.broke: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._body:
                self._moved()
                yield piece
                self._moved()
        except Exception as error:
            self.broke = error
            raise

    def unbound(self) -> None:
        """Leave the limit alone from now on: it has served."""
        self._limit = None

    def _moved(self) -> None:
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)


async def _decoded(response: aiohttp.ClientResponse) -> Any:
    return await response.json(content_type=None) if response.content_length != 0 else None
