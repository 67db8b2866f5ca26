"""Workload tokens: signed words of who a sandbox is, for services that it asks. It never holds one itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from appliance.domain.errors import InvalidRequest

TOKEN_TYPE = "JWT-SVID"  # noqa: S105 - a kind, no credential
LIFETIME = timedelta(hours=1)
RENEWED_AFTER = timedelta(minutes=20)
"""Long before one ends: its node may be out of reach for a while."""
MAX_TOKENS = 5
_MAX_NAME = 256
_MAX_AUDIENCE = 2048
# What would end or begin a placeholder, and what no header can hold.
_NOT_IN_NAMES = re.compile(r"[{}\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class WantedToken:
    audience: str
    """Kept as it was given."""
    token_type: str


def check_tokens(tokens: Mapping[str, WantedToken]) -> None:
    """Raise InvalidRequest where a token of `iam.tokens` is none. The texts are E2B's as far as it has them."""
    if len(tokens) > MAX_TOKENS:
        raise InvalidRequest(f"iam.tokens: too many tokens: {len(tokens)} (max {MAX_TOKENS})")
    for name, token in tokens.items():
        if not name:
            raise InvalidRequest("iam.tokens: token name must not be empty")
        if _NOT_IN_NAMES.search(name) or not _is_unicode(name):
            raise InvalidRequest("iam.tokens: token name must not contain '{', '}' or control characters")
        if len(name) > _MAX_NAME:
            raise InvalidRequest(f"iam.tokens: token name has more than {_MAX_NAME} characters")
        if not token.audience:
            raise InvalidRequest(f"iam.tokens.{name}.audience: audience is required")
        if len(token.audience) > _MAX_AUDIENCE:
            raise InvalidRequest(f"iam.tokens.{name}.audience: audience has more than {_MAX_AUDIENCE} characters")
        if not _is_unicode(token.audience):
            raise InvalidRequest(f"iam.tokens.{name}.audience: audience is not Unicode text")
        if token.token_type != TOKEN_TYPE:
            raise InvalidRequest(f'iam.tokens.{name}.tokenType: only "{TOKEN_TYPE}" is supported')


def _is_unicode(text: str) -> bool:
    """Tell whether it has no halves of surrogate pairs, which nothing can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
