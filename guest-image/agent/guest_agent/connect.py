"""The Connect protocol's calls: unary, server stream and client stream.

Messages here are in their JSON form whichever codec a client speaks; each service maps its own in a `wire` module.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from guest_agent.bodies import disconnected
from guest_agent.codec import STREAM_PREFIX, UNARY_PREFIX, Codec, accepted, find_codec
from guest_agent.envelope import (
    MAX_MESSAGE_BYTES,
    JsonObject,
    encode,
    end_of_stream,
    envelope,
    error_body,
    inflate,
    read_envelopes,
    take_message,
)
from guest_agent.errors import HTTP_STATUS, Code, RpcError, UnknownUser
from guest_agent.protobuf.schema import Message, Rpc

Batch = Sequence[JsonObject]

DEFAULT_KEEPALIVE = timedelta(seconds=90)
_MAX_KEEPALIVE_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Call:
    """What the headers of a call say."""

    user_name: str | None
    """From `Authorization: Basic`, whose password is not used; None means the default user."""
    timeout: timedelta | None
    """Connect-Timeout-Ms; None where it is absent or zero."""
    keepalive: timedelta
    """Longest silence on a stream."""


Unary = Callable[[Call, JsonObject], Awaitable[JsonObject]]
ServerStream = Callable[[Call, JsonObject], AsyncGenerator[Batch, None]]
"""Each batch is what is ready at that moment and goes out in one write."""
ClientStream = Callable[[Call, AsyncIterator[JsonObject]], Awaitable[JsonObject]]
Endpoint = Callable[[Request], Awaitable[ASGIApp]]


def parse_call(request: Request) -> Call:
    headers = request.headers
    timeout_ms = _milliseconds(headers.get("connect-timeout-ms"))
    return Call(
        user_name=_basic_user(headers.get("authorization")),
        timeout=timedelta(milliseconds=timeout_ms) if timeout_ms else None,
        keepalive=_keepalive(headers.get("keepalive-ping-interval", "")),
    )


def _keepalive(value: str) -> timedelta:
    """Return the interval asked for, or the usual one for what is no number of seconds within a day."""
    seconds = int(value) if value.isascii() and value.isdecimal() and len(value) <= 5 else 0
    return timedelta(seconds=seconds) if 0 < seconds <= _MAX_KEEPALIVE_S else DEFAULT_KEEPALIVE


def _milliseconds(value: str | None) -> int:
    if value is None:
        return 0
    if not (value.isascii() and value.isdecimal()) or len(value) > 10:
        raise RpcError(Code.INVALID_ARGUMENT, f"invalid Connect-Timeout-Ms: {value!r}")
    return int(value)


def _basic_user(value: str | None) -> str | None:
    if value is None or value[:6].lower() != "basic ":
        return None
    try:
        credentials = base64.b64decode(value[6:], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise RpcError(Code.UNAUTHENTICATED, "invalid Authorization header") from error
    return credentials.partition(":")[0] or None


def unary(handler: Unary, rpc: Rpc) -> Endpoint:
    """Return the endpoint of a call with one message each way."""

    async def endpoint(request: Request) -> ASGIApp:
        codec = find_codec(request.headers.get("content-type", ""), UNARY_PREFIX)
        if codec is None:
            return _unsupported(UNARY_PREFIX)
        try:
            body = await _read_body(request)
            if request.headers.get("content-encoding") == "gzip":
                body = inflate(body)
            call = parse_call(request)
            answer = await _in_time(call, handler(call, codec.decode(rpc.request, body)))
            return Response(codec.encode(rpc.response, answer), media_type=UNARY_PREFIX + codec.name)
        except Exception as error:
            return error_response(as_rpc_error(error))

    return endpoint


def _unsupported(prefix: str) -> Response:
    return Response(status_code=415, headers={"Accept-Post": accepted(prefix)})


async def _in_time(call: Call, answer: Awaitable[JsonObject]) -> JsonObject:
    """Wait for the answer until the call's timeout."""
    try:
        async with asyncio.timeout(_seconds(call.timeout)):
            return await answer
    except TimeoutError as error:
        raise _deadline_exceeded() from error


def _seconds(timeout: timedelta | None) -> float | None:
    return None if timeout is None else timeout.total_seconds()


def _deadline_exceeded() -> RpcError:
    return RpcError(Code.DEADLINE_EXCEEDED, "the call's timeout has passed")


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_MESSAGE_BYTES:
            raise RpcError(Code.RESOURCE_EXHAUSTED, "the request body is too large")
    return bytes(body)


def error_response(error: RpcError) -> Response:
    return Response(encode(error_body(error)), HTTP_STATUS[error.code], media_type="application/json")


def as_rpc_error(error: Exception) -> RpcError:
    """Return the answer to a failure. What nobody foresaw is written to the agent's log."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, UnknownUser):
        return RpcError(Code.UNAUTHENTICATED, str(error))
    if isinstance(error, ClientDisconnect):
        return RpcError(Code.CANCELED, "the client went away")
    if isinstance(error, OSError):
        return RpcError(_os_code(error), str(error))
    if isinstance(error, UnicodeEncodeError):
        # JSON can write halves of surrogate pairs, which no file and no argument has.
        return RpcError(Code.INVALID_ARGUMENT, "a string is not Unicode text")
    traceback.print_exception(error, file=sys.stderr)
    return RpcError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def _os_code(error: OSError) -> Code:
    if isinstance(error, FileNotFoundError):
        return Code.NOT_FOUND
    if isinstance(error, PermissionError):
        return Code.PERMISSION_DENIED
    return Code.INTERNAL


def _only_message(body: bytearray) -> bytes:
    """Return the one message of a server stream's request."""
    message = take_message(body)
    if message is None:
        raise RpcError(Code.INVALID_ARGUMENT, "the request has no complete message")
    return message


def server_stream(handler: ServerStream, rpc: Rpc, *, keeps_time: bool = False) -> Endpoint:
    """Return the endpoint of a call whose answer is a stream.

    The stream ends at the call's timeout, but for a handler that `keeps_time` itself.
    """

    async def endpoint(request: Request) -> ASGIApp:
        codec = find_codec(request.headers.get("content-type", ""), STREAM_PREFIX)
        if codec is None:
            return _unsupported(STREAM_PREFIX)
        try:
            call = parse_call(request)
            message = codec.decode(rpc.request, _only_message(bytearray(await _read_body(request))))
        except Exception as error:
            return _failed_stream(codec, error)
        return EventStream(handler(call, message), codec, rpc.response, None if keeps_time else call.timeout)

    return endpoint


def client_stream(handler: ClientStream, rpc: Rpc) -> Endpoint:
    """Return the endpoint of a call whose request is a stream, answered when the client half-closes."""

    async def endpoint(request: Request) -> ASGIApp:
        codec = find_codec(request.headers.get("content-type", ""), STREAM_PREFIX)
        if codec is None:
            return _unsupported(STREAM_PREFIX)
        payloads = read_envelopes(request.stream())
        try:
            messages = (codec.decode(rpc.request, payload) async for payload in payloads)
            call = parse_call(request)
            answer = envelope(codec.encode(rpc.response, await _in_time(call, handler(call, messages))))
        except Exception as error:
            return _failed_stream(codec, error)
        return Response(answer + end_of_stream(None), media_type=STREAM_PREFIX + codec.name)

    return endpoint


def _failed_stream(codec: Codec, error: Exception) -> Response:
    return Response(end_of_stream(as_rpc_error(error)), media_type=STREAM_PREFIX + codec.name)


class EventStream:
    """A response that sends batches as they come and stops producing them when the client goes away."""

    def __init__(
        self, batches: AsyncGenerator[Batch, None], codec: Codec, schema: Message, timeout: timedelta | None
    ) -> None:
        self._batches = batches
        self._codec = codec
        self._schema = schema
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        # Within the task, so that the head and the first batch make one packet.
        content_type = (STREAM_PREFIX + self._codec.name).encode()
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        failure = None
        try:
            async with asyncio.timeout(_seconds(self._timeout)), aclosing(self._batches) as batches:
                async for batch in batches:
                    body = b"".join(envelope(self._codec.encode(self._schema, message)) for message in batch)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            failure = _deadline_exceeded()
        except Exception as error:
            failure = as_rpc_error(error)
        await send({"type": "http.response.body", "body": end_of_stream(failure), "more_body": False})
