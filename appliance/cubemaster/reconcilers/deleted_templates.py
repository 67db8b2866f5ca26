"""Frees deleted templates and snapshots on the nodes that hold them."""

from __future__ import annotations

import structlog

from appliance.common.failpoints import reach
from appliance.cubemaster.persistence.builds import HeldBuild
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.services.node_clients import NodeClients
from appliance.domain.errors import CubeError, NotFound

log = structlog.get_logger()


class DeletedTemplateReconciler:
    def __init__(self, database: Database, nodes: NodeClients) -> None:
        self._database = database
        self._nodes = nodes

    async def step(self) -> None:
        for held in await self._database.transact(lambda uow: uow.builds.of_deleted_templates()):
            await self._free(held)

    async def _free(self, held: HeldBuild) -> None:
        try:
            client = await self._nodes.get(held.node_id)
            await client.delete_build(held.template_id, held.build_id)
        except NotFound:
            pass
        except CubeError as error:
            log.info("template_not_freed_yet", node_id=held.node_id, build_id=held.build_id, error=error.message)
            return
        reach("delete:carried-out")
        await self._database.transact(lambda uow: uow.builds.remove_replica(held.node_id, held.build_id))
