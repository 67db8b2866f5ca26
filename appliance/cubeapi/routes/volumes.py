"""The team's volumes: file systems that outlive sandboxes."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_volumes as e2b
from appliance.contracts import volumes as internal
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi.auth import Authenticator
from appliance.domain.errors import Conflict, InvalidRequest
from appliance.domain.volume import parse_volume_id


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter(prefix="/volumes")
    key_of = Depends(authenticate)

    @routes.get("")
    async def list_all(key: Annotated[ResolvedKey, key_of]) -> list[e2b.Volume]:
        found = await master.volumes.all(team_id=key.team_id)
        return [e2b.Volume(volumeID=one.volume_id, name=one.name) for one in found]

    @routes.post("", status_code=201)
    async def create(body: e2b.NewVolume, key: Annotated[ResolvedKey, key_of]) -> e2b.VolumeAndToken:
        try:
            return _volume(await master.volumes.create(internal.NewVolume(team_id=key.team_id, name=body.name)))
        except Conflict as error:
            # E2B's clients know a name that is taken as a bad request.
            raise InvalidRequest(error.message) from error

    @routes.get("/{volume_id}")
    async def get(volume_id: str, key: Annotated[ResolvedKey, key_of]) -> e2b.VolumeAndToken:
        return _volume(await master.volumes.get(parse_volume_id(volume_id), team_id=key.team_id))

    @routes.delete("/{volume_id}", status_code=204)
    async def delete(volume_id: str, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.volumes.delete(parse_volume_id(volume_id), team_id=key.team_id)
        return Response(status_code=204)

    return routes


def _volume(view: internal.VolumeAndToken) -> e2b.VolumeAndToken:
    return e2b.VolumeAndToken(volumeID=view.volume_id, name=view.name, token=view.token)
