"""The team's API keys, for a key with the scope `keys`, and for the operator on the team's behalf."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from appliance.clients.master import MasterClient
from appliance.common.clock import Clock
from appliance.contracts import e2b_access as e2b
from appliance.contracts.master import KeyChange, ResolvedKey
from appliance.cubeapi import mapping_access as mapping
from appliance.cubeapi.auth import Authenticator


def router(master: MasterClient, authenticate: Authenticator, clock: Clock) -> APIRouter:
    routes = APIRouter(prefix="/api-keys")
    key_of = Depends(authenticate)

    @routes.get("")
    async def list_all(key: Annotated[ResolvedKey, key_of]) -> list[e2b.TeamApiKey]:
        return [mapping.team_key(view) for view in await master.list_keys(team_id=key.team_id)]

    @routes.post("", status_code=201)
    async def create(body: e2b.NewTeamApiKey, key: Annotated[ResolvedKey, key_of]) -> e2b.CreatedTeamApiKey:
        wanted = mapping.new_key(body, granter=key, now=clock.now())
        return mapping.created_key(await master.create_key(wanted))

    @routes.patch("/{key_id}", status_code=200)
    async def rename(key_id: str, body: e2b.TeamApiKeyChange, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.change_key(mapping.key_id(key_id), KeyChange(team_id=key.team_id, name=body.name))
        return Response(status_code=200)

    @routes.delete("/{key_id}", status_code=204)
    async def revoke(key_id: str, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.revoke_key(mapping.key_id(key_id), team_id=key.team_id)
        return Response(status_code=204)

    return routes
