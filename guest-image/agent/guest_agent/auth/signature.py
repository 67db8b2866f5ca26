"""Signed file URLs: a link that lets its holder read or write one path without the access token."""

from __future__ import annotations

import base64
import hashlib
import hmac
from enum import StrEnum

from guest_agent.errors import HttpError


class Operation(StrEnum):
    READ = "read"
    WRITE = "write"


def sign(path: str, operation: Operation, user_name: str, token: str, expiration: int | None) -> str:
    """Return the signature a client computes. `path` and `user_name` are as given in the URL, unresolved."""
    raw = f"{path}:{operation.value}:{user_name}:{token}"
    if expiration is not None:
        raw += f":{expiration}"
    digest = hashlib.sha256(raw.encode("utf-8", "surrogateescape")).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def check_signature(
    *,
    signature: str | None,
    path: str,
    operation: Operation,
    user_name: str,
    token: str,
    expiration: str | None,
    now_s: float,
) -> None:
    """Return if the URL's signature is valid, else raise HttpError 401 with the text clients look for."""
    if not signature:
        raise HttpError(401, "missing signature query parameter")
    if expiration is not None and not (expiration.isascii() and expiration.isdecimal() and len(expiration) <= 19):
        raise HttpError(401, "invalid signature expiration")
    expires = None if expiration is None else int(expiration)
    expected = sign(path, operation, user_name, token, expires)
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise HttpError(401, "invalid signature")
    if expires is not None and expires < now_s:
        raise HttpError(401, "signature is already expired")
