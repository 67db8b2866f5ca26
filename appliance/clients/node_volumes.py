"""A Cubelet's routes about volumes (`contracts/node_volumes.py`); `NodeClient.volumes` is one of these."""

from __future__ import annotations

from datetime import timedelta

from pydantic import TypeAdapter

from appliance.clients.volume_content import VolumeContentClient
from appliance.common.http import InternalClient
from appliance.contracts.node_volumes import NewNodeVolume, NodeVolume

_VOLUMES = TypeAdapter(list[NodeVolume])


class NodeVolumesClient(VolumeContentClient):
    """`create_deadline` bounds what makes a disk, or waits for a machine to let go of one."""

    def __init__(self, http: InternalClient, *, deadline: timedelta, create_deadline: timedelta) -> None:
        super().__init__(http)
        self._deadline = deadline
        self._create_deadline = create_deadline

    async def make(self, volume_id: str, new: NewNodeVolume) -> None:
        await self._http.request(
            "PUT", f"/v1/volumes/{volume_id}", deadline=self._create_deadline, json=new.model_dump(mode="json")
        )

    async def all(self) -> list[NodeVolume]:
        return _VOLUMES.validate_python(await self._http.request("GET", "/v1/volumes", deadline=self._deadline))

    async def delete(self, volume_id: str) -> None:
        await self._http.request("DELETE", f"/v1/volumes/{volume_id}", deadline=self._create_deadline)
