"""Collecting the logs of running guests into this node's files.

The guest is asked after each of its samples, over the same connection, and once more shortly before it is ended. What
it says is a tenant's: its size, its texts and its clock are held to limits, and asking it costs a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from appliance.clients.guest import GuestClient
from appliance.clients.guest_logs import GuestLogEntry, GuestLogPage, LogCursor
from appliance.common.clock import Clock
from appliance.contracts.node import SandboxLogEntry
from appliance.cubelet.log_store import LogQuery, LogStore
from appliance.cubelet.runtime import VmRecord
from appliance.domain.errors import GuestFailure
from appliance.domain.ids import SandboxId

log = structlog.get_logger()

_DEADLINE = timedelta(seconds=2)
_LAST_DEADLINE = timedelta(milliseconds=500)
"""An owner who kills a sandbox waits this long at most for the last words of a guest that does not answer."""
_MAX_SKIPPED = 60
"""Rounds for which a guest that cannot tell its log is left alone."""
_PAGES_AT_ONCE = 3


@dataclass(slots=True)
class _Followed:
    access_token: str | None = field(repr=False)
    started_at: datetime
    cursor: LogCursor | None = None
    """None until it was looked up in the files of a former Cubelet."""
    latest: datetime | None = None
    failures: int = 0
    skip: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class LogCollector:
    def __init__(self, store: LogStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._followed: dict[SandboxId, _Followed] = {}

    def follow(self, sandbox_id: SandboxId, access_token: str | None, *, started_at: datetime) -> None:
        """Collect this sandbox's log from now on. Safe to repeat."""
        followed = self._followed.get(sandbox_id)
        if followed is None:
            self._followed[sandbox_id] = _Followed(access_token, started_at)
        else:
            followed.access_token = access_token

    def forget(self, sandbox_id: SandboxId) -> None:
        """Stop collecting; what was collected stays for as long as the store keeps it."""
        self._followed.pop(sandbox_id, None)

    async def collect(self, sandbox_id: SandboxId, guest: GuestClient, end: LogCursor | None) -> None:
        """Take over what is new, if the log's `end` has moved. A guest that does not say it is left alone for a while.

        Agents of an older release have no log and so no end.
        """
        followed = self._followed.get(sandbox_id)
        if followed is None or end is None or end == followed.cursor:
            return
        if followed.skip > 0:
            followed.skip -= 1
            return
        try:
            await self._collect(sandbox_id, followed, guest, deadline=_DEADLINE)
        except GuestFailure as error:
            followed.failures += 1
            followed.skip = min(2**followed.failures, _MAX_SKIPPED)
            if followed.failures == 1:
                log.info("guest_log_not_collected", sandbox_id=sandbox_id, error=error.message)
        except OSError as error:
            log.warning("guest_log_not_written", sandbox_id=sandbox_id, error=str(error))

    async def last_words(self, record: VmRecord) -> None:
        """Take over what is new before the machine ends. Never fails, and never takes long."""
        sandbox_id = record.sandbox.sandbox_id if record.sandbox is not None else None
        followed = self._followed.get(sandbox_id) if sandbox_id is not None else None
        if sandbox_id is None or followed is None or followed.failures or record.address is None:
            return
        guest = GuestClient(record.address)
        try:
            with suppress(GuestFailure, TimeoutError, OSError):
                async with asyncio.timeout(_LAST_DEADLINE.total_seconds()):
                    await self._collect(sandbox_id, followed, guest, deadline=_LAST_DEADLINE)
        finally:
            await guest.close()
        await asyncio.to_thread(self._store.ended, sandbox_id)

    async def rewound(self, record: VmRecord, access_token: str | None) -> None:
        """Go on with a guest that is as it was at an earlier time, and so is its log. Never fails, nor takes long.

        What it says from now on is new, though its records have numbers that others had. Where it cannot tell where its
        log ends, all of that is taken over again.
        """
        if record.sandbox is None or record.address is None:
            raise ValueError(f"VM {record.vm_id} does not run as a sandbox")
        sandbox_id, now = record.sandbox.sandbox_id, self._clock.now()
        self.follow(sandbox_id, access_token, started_at=record.sandbox.started_at)
        followed = self._followed[sandbox_id]
        end = None
        guest = GuestClient(record.address)
        try:
            with suppress(GuestFailure):
                _, end = await guest.usage(access_token=access_token, deadline=_DEADLINE)
        finally:
            await guest.close()
        said = SandboxLogEntry(timestamp=now, level="info", logger="cube", message="the sandbox was rolled back")
        async with followed.turn:
            followed.cursor, followed.latest, followed.failures, followed.skip = end or LogCursor(), now, 0, 0
            with suppress(OSError):
                await asyncio.to_thread(self._store.append, sandbox_id, [said], followed.cursor)

    async def read(self, sandbox_id: str, query: LogQuery) -> list[SandboxLogEntry]:
        """Return what was collected of a sandbox, running or ended, that matches."""
        return await asyncio.to_thread(self._store.read, sandbox_id, query)

    async def sweep(self, live: Iterable[VmRecord]) -> None:
        """Delete what has been kept long enough. Call it now and then."""
        ids = {record.sandbox.sandbox_id for record in live if record.sandbox is not None}
        await asyncio.to_thread(self._store.sweep, ids, self._clock.now())

    async def _collect(
        self, sandbox_id: SandboxId, followed: _Followed, guest: GuestClient, *, deadline: timedelta
    ) -> None:
        async with followed.turn:
            if followed.cursor is None:
                followed.cursor = await asyncio.to_thread(self._store.cursor, sandbox_id)
            for _ in range(_PAGES_AT_ONCE):
                page = await guest.logs(followed.cursor, access_token=followed.access_token, deadline=deadline)
                if not page.entries and not page.missed:
                    followed.cursor = page.cursor
                    return
                entries = self._believable(page, followed)
                # Should this be cut short by a deadline, the thread goes on and the cursor is its own again.
                followed.cursor = page.cursor
                followed.failures = 0
                await asyncio.to_thread(self._store.append, sandbox_id, entries, page.cursor)

    def _believable(self, page: GuestLogPage, followed: _Followed) -> list[SandboxLogEntry]:
        """Return the entries in order, at times at which they can have happened."""
        now = self._clock.now()
        earliest = followed.latest or followed.started_at
        entries = []
        if page.missed:
            message = f"{page.missed} earlier records are missing: they came faster than they were collected"
            entries.append(SandboxLogEntry(timestamp=min(earliest, now), level="warn", logger="cube", message=message))
        for entry in page.entries:
            earliest = max(earliest, min(_instant(entry, now), now))
            entries.append(
                SandboxLogEntry(
                    timestamp=earliest,
                    level=entry.level,
                    logger=entry.logger,
                    message=entry.message,
                    fields=dict(entry.fields),
                )
            )
        followed.latest = earliest
        return entries


def _instant(entry: GuestLogEntry, fallback: datetime) -> datetime:
    try:
        return datetime.fromtimestamp(entry.at_ns / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return fallback
