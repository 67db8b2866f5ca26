"""Finishes creates and deletes of volumes that nobody carries on, and deletes on nodes what is in no row."""

from __future__ import annotations

from datetime import timedelta

import structlog

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.volumes import VolumeService
from appliance.domain.errors import CubeError
from appliance.domain.ids import NodeId, VolumeId
from appliance.domain.node import AbsenceWatch

log = structlog.get_logger()


class VolumeReconciler:
    """What a node has and no row names is deleted after `unknown_grace`: it may be all that is left of it."""

    def __init__(
        self,
        database: Database,
        nodes: NodeClients,
        volumes: VolumeService,
        clock: Clock,
        *,
        unknown_grace: timedelta,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._volumes = volumes
        self._clock = clock
        self._unknown = AbsenceWatch[VolumeId](unknown_grace)

    async def step(self) -> None:
        for volume in await self._volumes.unfinished():
            await self._volumes.finish(volume)

    async def sweep(self) -> None:
        """Compare what each ready node has with the rows."""
        for node in await self._database.transact(lambda uow: uow.nodes.ready()):
            try:
                await self._compare(node.node_id)
            except CubeError as error:
                log.info("volumes_not_compared", node_id=node.node_id, error=error.message)

    async def _compare(self, node_id: NodeId) -> None:
        with naming(node_id):
            client = await self._nodes.get(node_id)
            there = {VolumeId(one.volume_id) for one in await client.volumes.all()}
        # Read after the node was asked: a row is written before its node hears of the volume.
        known = await self._database.transact(lambda uow: uow.volumes.on_node(node_id))
        for volume_id in sorted(self._unknown.lasting(node_id, there - known, at=self._clock.monotonic())):
            await self._remove(node_id, volume_id)

    async def _remove(self, node_id: NodeId, volume_id: VolumeId) -> None:
        log.warning("deleting_unknown_volume", node_id=node_id, volume_id=volume_id)
        try:
            await self._volumes.remove_unknown(node_id, volume_id)
        except CubeError as error:
            # Such as a sandbox that has it, and is on its way out itself.
            log.info("unknown_volume_not_deleted", node_id=node_id, volume_id=volume_id, error=error.message)
