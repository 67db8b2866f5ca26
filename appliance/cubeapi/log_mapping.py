"""E2B's shapes of a sandbox's log."""

from __future__ import annotations

import json
from collections.abc import Mapping

from appliance.contracts import e2b
from appliance.contracts.node import SandboxLogEntry

_LEVELS: Mapping[str, e2b.LogLevel] = {"debug": "debug", "warn": "warn", "error": "error"}


def log_line(entry: SandboxLogEntry) -> e2b.SandboxLog:
    """Return the entry as E2B's CLI parses it: a line of JSON that has level, logger, message and timestamp."""
    line = {
        **entry.fields,
        "level": _level(entry),
        "logger": entry.logger,
        "message": entry.message,
        "timestamp": entry.timestamp.isoformat().replace("+00:00", "Z"),
    }
    return e2b.SandboxLog(timestamp=entry.timestamp, line=json.dumps(line, ensure_ascii=False))


def log_entry(entry: SandboxLogEntry) -> e2b.SandboxLogEntry:
    return e2b.SandboxLogEntry(
        timestamp=entry.timestamp,
        message=entry.message,
        level=_level(entry),
        fields={**entry.fields, "logger": entry.logger},
    )


def _level(entry: SandboxLogEntry) -> e2b.LogLevel:
    return _LEVELS.get(entry.level, "info")
