"""Volumes: made on a node that is chosen once, kept until their team deletes them, and gone from the node with that."""

from __future__ import annotations

from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.contracts.node_volumes import NewNodeVolume
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.persistence.volumes import HeldVolume
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.teams import found_team
from appliance.domain.errors import Conflict, CubeError, VolumeInUse, VolumeNotFound
from appliance.domain.ids import NodeId, VolumeId, new_volume_id
from appliance.domain.placement import roomiest
from appliance.domain.volume import Volume, VolumeState, parse_volume_id, parse_volume_name

log = structlog.get_logger()


class VolumeService:
    """`create_limit` is longer than any create takes: a row that is `creating` for longer has no call behind it."""

    def __init__(
        self,
        *,
        database: Database,
        nodes: NodeClients,
        quota: Quota,
        clock: Clock,
        size_mib: int,
        create_limit: timedelta,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._quota = quota
        self._clock = clock
        self._size_mib = size_mib
        self._create_limit = create_limit

    async def create(self, team_id: str, name: str) -> HeldVolume:
        """Return a volume that can be used, or raise and leave nothing of it."""
        wanted = parse_volume_name(name)
        volume = await self._database.transact(lambda uow: self._intend(uow, team_id, wanted))
        reach("volume-create:written")
        try:
            with naming(volume.node_id):
                client = await self._nodes.get(volume.node_id)
                await client.volumes.make(volume.volume_id, NewNodeVolume(size_mib=volume.size_mib))
            reach("volume-create:carried-out")
            made = await self._database.transact(lambda uow: uow.volumes.make_ready(volume.volume_id))
        except CubeError:
            await self._give_up(volume)
            raise
        if not made:
            raise Conflict(f"the volume '{name}' took too long to make and was given up; create it again")
        log.info("volume_created", volume_id=volume.volume_id, team_id=team_id, node_id=volume.node_id)
        return await self.get(volume.volume_id, team_id=team_id)

    async def all(self, *, team_id: str | None) -> list[HeldVolume]:
        return await self._database.transact(lambda uow: uow.volumes.ready(team_id=team_id))

    async def get(self, volume_id: str, *, team_id: str | None) -> HeldVolume:
        return await self._database.transact(lambda uow: _found(uow, volume_id, team_id=team_id))

    async def delete(self, volume_id: str, *, team_id: str | None) -> None:
        """Delete a volume that no sandbox has. From here on nobody sees it, even where its node does not answer yet."""

        def work(uow: UnitOfWork) -> Volume:
            found = uow.volumes.find(parse_volume_id(volume_id), team_id=team_id, lock=True)
            if found is None or found.volume.state is VolumeState.CREATING:
                raise VolumeNotFound(volume_id)
            if found.sandbox_id is not None:
                raise VolumeInUse(found.volume.name, found.sandbox_id)
            uow.volumes.begin_delete(found.volume.volume_id, was=found.volume.state)
            return found.volume

        volume = await self._database.transact(work)
        log.info("volume_deleted", volume_id=volume.volume_id, team_id=volume.team_id, node_id=volume.node_id)
        reach("volume-delete:written")
        await self._try_remove(volume)

    async def unfinished(self) -> list[Volume]:
        """Return those whose create or delete nobody carries on."""
        before = self._clock.now() - self._create_limit
        return await self._database.transact(lambda uow: uow.volumes.unfinished(created_before=before))

    async def finish(self, volume: Volume) -> None:
        """Carry on a delete; a create that was interrupted becomes one, since nobody knows what it made."""
        if volume.state is VolumeState.CREATING:
            await self._give_up(volume)
        else:
            await self._try_remove(volume)

    async def remove_unknown(self, node_id: NodeId, volume_id: VolumeId) -> None:
        """Delete on a node what is in no row."""
        with naming(node_id):
            client = await self._nodes.get(node_id)
            await client.volumes.delete(volume_id)

    async def _give_up(self, volume: Volume) -> None:
        """Undo a create, unless it succeeds in this moment."""
        creating = VolumeState.CREATING
        if await self._database.transact(lambda uow: uow.volumes.begin_delete(volume.volume_id, was=creating)):
            await self._try_remove(volume)

    async def _try_remove(self, volume: Volume) -> None:
        """Remove it from its node, and then its row, if that is possible now; else the reconciler does it later."""
        try:
            with naming(volume.node_id):
                client = await self._nodes.get(volume.node_id)
                await client.volumes.delete(volume.volume_id)
        except CubeError as error:
            log.warning(
                "volume_not_removed_yet", volume_id=volume.volume_id, node_id=volume.node_id, error=error.message
            )
            return
        reach("volume-delete:carried-out")
        await self._database.transact(lambda uow: uow.volumes.remove(volume.volume_id))

    def _intend(self, uow: UnitOfWork, team_id: str, name: str) -> Volume:
        """Write the row that says a volume shall be, and where."""
        team = found_team(uow, team_id)
        uow.keys.lock_team(team.team_id)
        volume = Volume(
            volume_id=new_volume_id(),
            team_id=team.team_id,
            name=name,
            node_id=roomiest(self._size_mib, uow.nodes.disk_free_mib()),
            state=VolumeState.CREATING,
            size_mib=self._size_mib,
            created_at=self._clock.now(),
        )
        uow.volumes.add(volume)
        self._quota.check_volumes(uow, team.team_id)
        return volume


def _found(uow: UnitOfWork, volume_id: str, *, team_id: str | None) -> HeldVolume:
    found = uow.volumes.find(parse_volume_id(volume_id), team_id=team_id)
    if found is None or found.volume.state is not VolumeState.READY:
        raise VolumeNotFound(volume_id)
    return found
