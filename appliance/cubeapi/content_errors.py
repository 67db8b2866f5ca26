"""Errors of the content API of volumes: ours in its words, and those of the guest that has the volume."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from appliance.common.http import Answer, plain_body, raise_for
from appliance.contracts.e2b_volumes import ContentError
from appliance.contracts.errors import ErrorBody
from appliance.domain.errors import GuestFailure, InvalidRequest

PREFIX = "/volumecontent"
_MAX_ERROR_BYTES = 64 * 1024
_WORDS: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
}


def body_of(request: Request, error: ErrorBody) -> dict[str, Any]:
    """Return an error as the callers of this path know it."""
    if not request.url.path.startswith(f"{PREFIX}/"):
        return plain_body(request, error)
    return ContentError(code=_WORDS.get(error.code, "error"), message=error.message).model_dump()


@asynccontextmanager
async def checked(asked: AbstractAsyncContextManager[Answer], *, success: int) -> AsyncIterator[Answer]:
    """Yield what the guest answers: success, or an error that is well-formed. Raise what our own services answer."""
    async with asked as answer:
        yield answer if answer.status == success else await _refusal(answer)


async def _refusal(answer: Answer) -> Answer:
    try:
        HTTPStatus(answer.status)
        said = json.loads(await answer.whole(most=_MAX_ERROR_BYTES))
        if answer.status >= 400 and isinstance(said, dict) and isinstance(said.get("code"), int):
            raise_for(answer.status, ErrorBody.model_validate(said), service="cube-master")
        error = ContentError.model_validate(said)
    except (ValueError, ValidationError, InvalidRequest) as problem:
        raise GuestFailure("what has the volume gave an answer that makes no sense") from problem
    if answer.status < 400:
        raise GuestFailure(f"what has the volume answered with the status {answer.status}")
    body = error.model_dump_json().encode()
    return Answer(answer.status, len(body), _once(body))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
