"""What a guest agent's log says, parsed as what it is: text of a tenant, of which nothing is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.domain.errors import GuestFailure

MAX_PAGE_BYTES = 2 * 1024 * 1024
"""Of an answer. The agent's pages are a tenth of that, before JSON escapes what is not text."""
_END = re.compile(r"([0-9a-zA-Z]{1,64})/([0-9]{1,15})")
_MAX_ENTRIES = 20_000
_MAX_MESSAGE = 4096
_MAX_NAME = 64
_MAX_VALUE = 1024
_MAX_FIELDS = 16
_MAX_NUMBER = 1 << 53
_LEVELS = frozenset(("debug", "info", "warn", "error"))


@dataclass(frozen=True, slots=True)
class GuestLogEntry:
    at_ns: int
    """By the guest's clock."""
    level: str
    logger: str
    message: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LogCursor:
    """Where the next page begins: a number, and the epoch in which it means anything."""

    epoch: str = ""
    after: int = 0


@dataclass(frozen=True, slots=True)
class GuestLogPage:
    cursor: LogCursor
    missed: int
    """Records that were gone before they were asked for."""
    entries: tuple[GuestLogEntry, ...]


def parse_log_end(header: str | None) -> LogCursor | None:
    """Return where a guest's log ends now; None where its agent keeps none, or says something else."""
    match = _END.fullmatch(header or "")
    return LogCursor(match[1], int(match[2])) if match else None


def parse_log_page(payload: bytes) -> GuestLogPage:
    """Return the page, every text cut to its limit, or raise GuestFailure where it is none."""
    try:
        page = json.loads(payload)
        epoch, after, missed, entries = page["epoch"], page["next"], page["missed"], page["entries"]
        if not (isinstance(epoch, str) and epoch.isalnum() and len(epoch) <= _MAX_NAME):
            raise ValueError("epoch")
        if not all(type(number) is int and 0 <= number <= _MAX_NUMBER for number in (after, missed)):
            raise ValueError("numbers")
        if not isinstance(entries, list) or len(entries) > _MAX_ENTRIES:
            raise ValueError("entries")
        return GuestLogPage(LogCursor(epoch, after), missed, tuple(_entry(entry) for entry in entries))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GuestFailure(f"the guest agent's log makes no sense: {type(error).__name__}") from error


def _entry(entry: Mapping[str, Any]) -> GuestLogEntry:
    at_ns, fields = entry["at_ns"], entry["fields"]
    if type(at_ns) is not int or not isinstance(fields, dict):
        raise ValueError("entry")
    level = entry["level"]
    return GuestLogEntry(
        at_ns=at_ns,
        level=level if level in _LEVELS else "info",
        logger=_text(entry["logger"], _MAX_NAME),
        message=_text(entry["message"], _MAX_MESSAGE),
        fields={_text(name, _MAX_NAME): _text(value, _MAX_VALUE) for name, value in list(fields.items())[:_MAX_FIELDS]},
    )


def _text(value: object, limit: int) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    # Halves of surrogate pairs, which JSON can write, cannot be stored as UTF-8.
    return value[:limit].encode("utf-8", "replace").decode()
