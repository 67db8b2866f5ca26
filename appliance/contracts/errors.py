"""The error body of every HTTP interface of ours, public (E2B's shape) and internal alike."""

from __future__ import annotations

from pydantic import BaseModel


class ErrorBody(BaseModel):
    code: int
    """Equals the HTTP status: the JS SDK branches on it."""
    message: str
    error_code: str | None = None
    """Stable machine-readable name. Internally the class name in `domain/errors.py`, which the client raises again."""
