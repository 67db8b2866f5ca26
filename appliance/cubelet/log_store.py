"""The logs of this node's sandboxes, in files that cannot grow beyond their limit and outlive their sandbox a while.

Two files a sandbox: the one that is written, and the one before it, which the next full one replaces. Each line is
JSON: an entry, or the cursor from which collecting goes on after a restart of Cubelet.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from appliance.clients.guest_logs import LogCursor
from appliance.contracts.node import SandboxLogEntry

_NAME = re.compile(r"[a-z0-9]{1,64}")
_CURRENT, _FORMER = ".jsonl", ".old.jsonl"


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Entries from `at` on, oldest first; or `backward`, from `at` into the past, newest first."""

    at: datetime | None = None
    backward: bool = False
    limit: int = 1000
    levels: Collection[str] | None = None
    search: str | None = None
    """Text that the message contains."""

    def matches(self, entry: SandboxLogEntry) -> bool:
        if self.at is not None and (entry.timestamp > self.at if self.backward else entry.timestamp < self.at):
            return False
        if self.levels is not None and entry.level not in self.levels:
            return False
        return self.search is None or self.search in entry.message


class LogStore:
    """Its methods block; they are called in threads, also at the same time."""

    def __init__(self, root: Path, *, max_bytes: int, total_bytes: int, keep: timedelta) -> None:
        self._root = root
        self._max_file_bytes = max_bytes // 2
        self._total_bytes = total_bytes
        self._keep = keep
        self._lock = threading.Lock()

    def append(self, sandbox_id: str, entries: Sequence[SandboxLogEntry], cursor: LogCursor) -> None:
        """Add entries, and remember the cursor behind them. Raises OSError."""
        lines = [entry.model_dump_json() for entry in entries]
        lines.append(json.dumps({"cursor": asdict(cursor)}))
        current = self._path(sandbox_id, _CURRENT)
        with self._lock:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(current, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with open(descriptor, "ab") as file:
                # Begun anew, a line that a crash cut short spoils none but itself.
                prefix = b"\n" if file.tell() else b""
                file.write(prefix + "\n".join(lines).encode())
                full = file.tell() > self._max_file_bytes
            if full:
                current.replace(self._path(sandbox_id, _FORMER))

    def cursor(self, sandbox_id: str) -> LogCursor:
        """Return the last cursor, or that of the beginning."""
        last = LogCursor()
        for line in self._lines(sandbox_id):
            if line.startswith(b'{"cursor"'):
                with suppress(ValueError, TypeError, KeyError):
                    last = LogCursor(**json.loads(line)["cursor"])
        return last

    def read(self, sandbox_id: str, query: LogQuery) -> list[SandboxLogEntry]:
        """Return the entries that match; none of a sandbox that has no log."""
        found = (entry for entry in self._entries(sandbox_id) if query.matches(entry))
        if query.backward:
            return list(reversed(deque(found, maxlen=query.limit)))
        return list(islice(found, query.limit))

    def ended(self, sandbox_id: str) -> None:
        """Begin the time for which the log of an ended sandbox is kept."""
        with suppress(FileNotFoundError):
            os.utime(self._path(sandbox_id, _CURRENT))

    def sweep(self, live: Collection[str], now: datetime) -> None:
        """Delete what has been kept long enough, then the oldest until all fit; live sandboxes' current files stay."""
        with self._lock:
            kept = []
            for path in self._root.glob("*.jsonl"):
                status = path.stat()
                is_live = path.name.partition(".")[0] in live
                if not is_live and now.timestamp() - status.st_mtime > self._keep.total_seconds():
                    path.unlink()
                    continue
                kept.append((is_live, status.st_mtime, status.st_size, path))
            excess = sum(size for _, _, size, _ in kept) - self._total_bytes
            for is_live, _, size, path in sorted(kept):
                if excess <= 0:
                    return
                if not is_live or path.name.endswith(_FORMER):
                    path.unlink()
                    excess -= size

    def _entries(self, sandbox_id: str) -> Iterator[SandboxLogEntry]:
        for line in self._lines(sandbox_id):
            if line and not line.startswith(b'{"cursor"'):
                with suppress(ValueError):
                    yield SandboxLogEntry.model_validate_json(line)

    def _lines(self, sandbox_id: str) -> list[bytes]:
        content = b""
        with self._lock:
            for suffix in (_FORMER, _CURRENT):
                with suppress(FileNotFoundError):
                    content += self._path(sandbox_id, suffix).read_bytes() + b"\n"
        return content.splitlines()

    def _path(self, sandbox_id: str, suffix: str) -> Path:
        if not _NAME.fullmatch(sandbox_id):
            raise ValueError(f"not the id of a sandbox: {sandbox_id!r}")
        return self._root / (sandbox_id + suffix)
