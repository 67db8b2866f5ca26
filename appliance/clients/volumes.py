"""CubeMaster's routes about volumes; `MasterClient.volumes` is one of these."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from appliance.clients.volume_content import VolumeContentClient
from appliance.common.http import InternalClient
from appliance.contracts.volumes import NewVolume, VolumeAndToken, VolumeView

_VOLUMES = TypeAdapter(list[VolumeView])


class VolumesClient(VolumeContentClient):
    """`create_deadline` bounds what makes or deletes something on a node."""

    def __init__(self, http: InternalClient, *, deadline: timedelta, create_deadline: timedelta) -> None:
        super().__init__(http)
        self._deadline = deadline
        self._create_deadline = create_deadline

    async def create(self, new: NewVolume) -> VolumeAndToken:
        answer = await self._http.request(
            "POST", "/v1/volumes", deadline=self._create_deadline, json=new.model_dump(mode="json")
        )
        return VolumeAndToken.model_validate(answer)

    async def all(self, *, team_id: str | None = None) -> list[VolumeView]:
        return _VOLUMES.validate_python(await self._call("GET", "/v1/volumes", team_id))

    async def get(self, volume_id: str, *, team_id: str | None = None) -> VolumeAndToken:
        return VolumeAndToken.model_validate(await self._call("GET", f"/v1/volumes/{volume_id}", team_id))

    async def delete(self, volume_id: str, *, team_id: str | None = None) -> None:
        await self._call("DELETE", f"/v1/volumes/{volume_id}", team_id, deadline=self._create_deadline)

    async def _call(self, method: str, path: str, team_id: str | None, *, deadline: timedelta | None = None) -> Any:
        params = {"team_id": team_id} if team_id is not None else None
        return await self._http.request(method, path, deadline=deadline or self._deadline, params=params)
