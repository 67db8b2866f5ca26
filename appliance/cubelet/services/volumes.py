"""Volumes and who has them: a sandbox, from its create to its end, or else a machine that serves their content.

Which sandbox has a volume is what the records say, so that it outlives Cubelet, pauses and reboots of the node. Until
a sandbox that is being made is among the others, a claim holds its volumes for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address

import structlog

from appliance.cubelet.concurrency import KeyedLocks
from appliance.cubelet.runtime import AttachedVolume, Stage, VmRecord
from appliance.cubelet.services.keepers import Keepers
from appliance.cubelet.services.registry import Registry, id_of
from appliance.cubelet.services.template_store import ReadyTemplate
from appliance.cubelet.services.volume_store import Volume, VolumeStore
from appliance.domain.errors import Conflict, InvalidRequest, VolumeInUse
from appliance.domain.ids import SandboxId, VolumeId

log = structlog.get_logger()


class Volumes:
    def __init__(self, *, store: VolumeStore, registry: Registry, keepers: Keepers) -> None:
        self._store = store
        self._registry = registry
        self._keepers = keepers
        self._claims: dict[VolumeId, SandboxId | None] = {}
        """None: it is being deleted."""
        self._locks = KeyedLocks[VolumeId]()

    async def create(self, volume_id: VolumeId, *, size_mib: int) -> None:
        """Make an empty volume. The same id again is the same volume, as it is."""
        async with self._locks.hold(volume_id):
            await self._store.create(volume_id, size_mib=size_mib)
        log.info("volume_created", volume_id=volume_id)

    def list(self) -> Sequence[tuple[Volume, SandboxId | None]]:
        """Return every volume, with the sandbox that has it."""
        return [(volume, self._holder(volume.volume_id)) for volume in self._store.list()]

    async def delete(self, volume_id: VolumeId) -> None:
        """Remove a volume and what is on it. Absent ones are success. Raises VolumeInUse."""
        async with self._locks.hold(volume_id):
            with self._claimed([volume_id], None):
                await self._keepers.end(volume_id)
                await self._store.delete(volume_id)
        log.info("volume_deleted", volume_id=volume_id)

    @asynccontextmanager
    async def taken(
        self, volumes: Sequence[AttachedVolume], sandbox_id: SandboxId, template: ReadyTemplate
    ) -> AsyncIterator[None]:
        """Hold volumes for a sandbox that is made in the block; no machine has them any more when it is entered.

        Raises VolumeNotFound, VolumeInUse, and InvalidRequest where machines of the template cannot have them.
        """
        for one in volumes:
            volume = self._store.get(one.volume_id)
            if volume.size_mib != template.meta.volume_mib:
                raise InvalidRequest(
                    f"volume '{one.volume_id}' has {volume.size_mib} MiB, but build '{template.build_id}' was made for "
                    f"volumes of {template.meta.volume_mib} MiB; build the template again"
                )
        ids = [one.volume_id for one in volumes]
        for volume_id in ids:
            await self._let_go(volume_id)
        with self._claimed(ids, sandbox_id):
            for volume_id in ids:
                await self._keepers.end(volume_id)
            yield

    @asynccontextmanager
    async def served(self, volume_id: VolumeId) -> AsyncIterator[tuple[IPv4Address, int]]:
        """The guest that has a volume, and its slot there; one is booted for it where no sandbox has it.

        Raises VolumeNotFound, and Conflict while it cannot be reached because its sandbox does not run.
        """
        # What one machine lets go of another may take, while we wait.
        while self._keepers.is_ending(volume_id):
            await self._keepers.end(volume_id)
        volume = self._store.get(volume_id)
        record = self._record(volume_id)
        if record is not None and record.address is not None and record.stage is Stage.RUNNING:
            yield record.address, [one.volume_id for one in record.volumes].index(volume_id)
            return
        if record is not None:
            raise Conflict(f"volume '{volume_id}' is in sandbox \"{id_of(record)}\", which is not running; resume it")
        if volume_id in self._claims:
            raise VolumeInUse(volume_id, self._claims[volume_id])
        async with self._keepers.serving(volume) as address:
            yield address, 0

    async def _let_go(self, volume_id: VolumeId) -> None:
        # CubeMaster hears of a sandbox's end, and may give its volume away, a moment before it is forgotten here.
        record = self._record(volume_id)
        if record is not None and record.stage is Stage.ENDING:
            async with self._registry.locks.hold(id_of(record)):
                return

    @contextmanager
    def _claimed(self, ids: Sequence[VolumeId], sandbox_id: SandboxId | None) -> Iterator[None]:
        # Nothing is awaited between the look and the claim: of two at once, one finds the other's.
        for volume_id in ids:
            if volume_id in self._claims or self._record(volume_id) is not None:
                raise VolumeInUse(volume_id, self._holder(volume_id))
        self._claims.update(dict.fromkeys(ids, sandbox_id))
        try:
            yield
        finally:
            for volume_id in ids:
                del self._claims[volume_id]

    def _holder(self, volume_id: VolumeId) -> SandboxId | None:
        record = self._record(volume_id)
        return id_of(record) if record is not None else self._claims.get(volume_id)

    def _record(self, volume_id: VolumeId) -> VmRecord | None:
        return next(
            (one for one in self._registry.list() if any(volume.volume_id == volume_id for volume in one.volumes)), None
        )


def refuse_volumes(record: VmRecord, what: str) -> None:
    """Raise Conflict where a sandbox has volumes: what would be made of it would have the same disks."""
    if record.volumes:
        raise Conflict(
            f'Sandbox "{id_of(record)}" has volumes, so it cannot be {what}: another machine would have the same disks'
        )
