"""Placeholders in the values of header rules: `${e2b.secrets.NAME}` and `${e2b.identity.tokens.NAME}`.

All other text is the caller's own and stays as it is. What stands in their place is never in a guest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from appliance.domain.errors import InvalidRequest
from appliance.domain.secret import parse_name

_BEGIN = re.compile(r"\$\{e2b\.(secrets|identity\.tokens)\.")
_MALFORMED = "Network transform header contains a malformed E2B placeholder."


class PlaceholderKind(StrEnum):
    SECRET = "secrets"  # noqa: S105 - what it is called
    TOKEN = "identity.tokens"  # noqa: S105 - likewise


@dataclass(frozen=True, slots=True)
class Placeholder:
    kind: PlaceholderKind
    name: str
    """Of a secret in the form in which it is stored, of a token as it was written."""
    start: int
    end: int


def placeholders(value: str) -> Iterator[Placeholder]:
    """Yield those in `value` from left to right. Raises InvalidRequest, which repeats nothing of the value."""
    at = 0
    while begin := _BEGIN.search(value, at):
        end = value.find("}", begin.end())
        name = value[begin.end() : end]
        if end < 0 or not name or _BEGIN.search(name):
            raise InvalidRequest(_MALFORMED)
        kind = PlaceholderKind(begin[1])
        yield Placeholder(kind, _secret_name(name) if kind is PlaceholderKind.SECRET else name, begin.start(), end + 1)
        at = end + 1


def names_secret(value: str) -> bool:
    """Does `value` begin a placeholder for a secret, well-formed or not?"""
    return any(begin[1] == PlaceholderKind.SECRET for begin in _BEGIN.finditer(value))


def fill(value: str, text_of: Callable[[Placeholder], str]) -> str:
    """Return `value` with each placeholder replaced."""
    filled, at = [], 0
    for one in placeholders(value):
        filled += [value[at : one.start], text_of(one)]
        at = one.end
    return "".join([*filled, value[at:]])


def _secret_name(name: str) -> str:
    try:
        return parse_name(name)
    except InvalidRequest:
        raise InvalidRequest(_MALFORMED) from None
