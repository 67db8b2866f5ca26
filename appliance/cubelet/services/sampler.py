"""What each running guest uses: asked every few seconds, the last hour kept in memory.

Asking needs the sandbox's access token. It is kept here, in memory alone: no secret of a sandbox is ever on this node's
disk. After a restart of Cubelet the node reports its sandboxes as not sampled, and CubeMaster, which derives the token
from the sandbox's id, gives it again. The samples from before are gone then.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from appliance.clients.guest import GuestClient
from appliance.clients.guest_reports import Usage
from appliance.common.clock import Clock
from appliance.cubelet.runtime import Stage, VmRecord
from appliance.cubelet.services.log_collector import LogCollector
from appliance.domain.errors import GuestFailure
from appliance.domain.ids import SandboxId

log = structlog.get_logger()

_KEPT = 720
"""Samples a sandbox; an hour at one every 5 s."""
_AT_ONCE = 4
_DEADLINE = timedelta(seconds=2)
_MAX_PAUSE = timedelta(minutes=1)
_PACKED = struct.Struct("<dHd5Q")
"""A sample in 58 bytes: as objects, an hour of a thousand sandboxes would take a quarter of a GiB."""


class LiveSandboxes(Protocol):
    def list(self) -> Sequence[VmRecord]: ...


@dataclass(frozen=True, slots=True)
class Sample:
    at: datetime
    usage: Usage


@dataclass(slots=True)
class _Watched:
    access_token: str | None = field(repr=False)
    samples: deque[bytes] = field(default_factory=lambda: deque(maxlen=_KEPT))
    failures: int = 0
    not_before: float = 0.0
    """Monotonic time before which it is left alone: a wedged guest must not slow down the samples of the others."""


class Sampler:
    def __init__(self, sandboxes: LiveSandboxes, logs: LogCollector, clock: Clock, *, interval: timedelta) -> None:
        self._logs = logs
        self._sandboxes = sandboxes
        self._clock = clock
        self._interval = interval
        self._watched: dict[SandboxId, _Watched] = {}

    def watch(self, record: VmRecord, access_token: str | None) -> None:
        """Ask this sandbox's guest from now on. Safe to repeat: what was sampled stays."""
        sandbox_id = _id(record)
        watched = self._watched.get(sandbox_id)
        if watched is None:
            self._watched[sandbox_id] = _Watched(access_token)
        else:
            watched.access_token = access_token
        if record.sandbox is not None:
            self._logs.follow(sandbox_id, access_token, started_at=record.sandbox.started_at)

    def watches(self, record: VmRecord) -> bool:
        return _id(record) in self._watched

    async def step(self) -> None:
        """Ask every guest that is due once, and forget the sandboxes that are gone."""
        live = {_id(record): record for record in self._sandboxes.list()}
        for gone in self._watched.keys() - live.keys():
            del self._watched[gone]
            self._logs.forget(gone)
        now = self._clock.monotonic()
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for sandbox_id, watched in self._watched.items():
                record = live[sandbox_id]
                if record.stage is Stage.RUNNING and watched.not_before <= now:
                    group.create_task(self._sample(record, watched, slots))

    def between(self, sandbox_id: SandboxId, *, start: datetime | None, end: datetime | None) -> list[Sample]:
        """Return its samples of a time, oldest first, both ends inclusive; none of a sandbox nobody knows."""
        watched = self._watched.get(sandbox_id)
        samples = [_unpacked(one) for one in watched.samples] if watched is not None else []
        return [one for one in samples if (start is None or start <= one.at) and (end is None or one.at <= end)]

    def latest(self, sandbox_id: SandboxId) -> Sample | None:
        watched = self._watched.get(sandbox_id)
        return _unpacked(watched.samples[-1]) if watched is not None and watched.samples else None

    async def _sample(self, record: VmRecord, watched: _Watched, slots: asyncio.Semaphore) -> None:
        if record.address is None:
            return
        async with slots:
            # A connection for one question: none of ours stays open in a guest that has an owner.
            guest = GuestClient(record.address)
            try:
                usage, log_end = await guest.usage(access_token=watched.access_token, deadline=_DEADLINE)
                watched.failures = 0
                watched.samples.append(_PACKED.pack(self._clock.now().timestamp(), *astuple(usage)))
                await self._logs.collect(_id(record), guest, log_end)
            except GuestFailure as error:
                watched.failures += 1
                pause = min(self._interval * 2 ** min(watched.failures, 10), _MAX_PAUSE)
                watched.not_before = self._clock.monotonic() + pause.total_seconds()
                if watched.failures == 1:
                    log.info("guest_not_sampled", vm_id=record.vm_id, error=error.message)
            finally:
                await guest.close()


def _id(record: VmRecord) -> SandboxId:
    if record.sandbox is None:
        raise ValueError(f"VM {record.vm_id} has no sandbox")
    return record.sandbox.sandbox_id


def _unpacked(packed: bytes) -> Sample:
    at, *usage = _PACKED.unpack(packed)
    return Sample(datetime.fromtimestamp(at, UTC), Usage(*usage))
