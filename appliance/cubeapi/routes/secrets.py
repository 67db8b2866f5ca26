"""The team's secrets: stored, replaced and deleted here, used by the rules of egress, shown to nobody."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_secrets as e2b
from appliance.contracts import secrets as internal
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi.auth import Authenticator
from appliance.domain.secret import parse_selector


def router(master: MasterClient, authenticate: Authenticator) -> APIRouter:
    routes = APIRouter(prefix="/secrets")
    key_of = Depends(authenticate)

    @routes.get("")
    async def list_page(
        response: Response,
        key: Annotated[ResolvedKey, key_of],
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        next_token: Annotated[str | None, Query(alias="nextToken")] = None,
    ) -> list[e2b.Secret]:
        page = await master.secrets.page(team_id=key.team_id, limit=limit, cursor=next_token)
        if page.next_cursor is not None:
            response.headers["X-Next-Token"] = page.next_cursor
        return [_secret(view) for view in page.secrets]

    @routes.post("", status_code=201)
    async def create(body: e2b.NewSecret, key: Annotated[ResolvedKey, key_of]) -> e2b.Secret:
        new = internal.NewSecret(team_id=key.team_id, name=body.name, value=body.value, metadata=body.metadata or {})
        return _secret(await master.secrets.create(new))

    @routes.get("/{secret_id}")
    async def get(secret_id: str, key: Annotated[ResolvedKey, key_of]) -> e2b.Secret:
        return _secret(await master.secrets.get(parse_selector(secret_id), team_id=key.team_id))

    @routes.post("/{secret_id}")
    async def update(secret_id: str, body: e2b.SecretUpdate, key: Annotated[ResolvedKey, key_of]) -> e2b.Secret:
        new = internal.SecretUpdate(team_id=key.team_id, value=body.value, metadata=body.metadata)
        return _secret(await master.secrets.update(parse_selector(secret_id), new))

    @routes.delete("/{secret_id}", status_code=204)
    async def delete(secret_id: str, key: Annotated[ResolvedKey, key_of]) -> Response:
        await master.secrets.delete(parse_selector(secret_id), team_id=key.team_id)
        return Response(status_code=204)

    return routes


def _secret(view: internal.SecretView) -> e2b.Secret:
    return e2b.Secret(
        secretID=view.secret_id,
        name=view.name,
        currentVersion=view.current_version,
        metadata=view.metadata,
        createdAt=view.created_at,
        updatedAt=view.updated_at,
    )
