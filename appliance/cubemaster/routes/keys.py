from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.master import CreatedKey, KeyChange, KeyDigest, KeyView, NewKey, ResolvedKey
from appliance.cubemaster.mapping import aware, created_key, key_view, resolved_key
from appliance.cubemaster.services.keys import KeyService, KeyWish
from appliance.domain.access import parse_scopes


def keys_router(keys: KeyService) -> APIRouter:
    router = APIRouter(prefix="/v1/keys")

    @router.post("/resolve")
    async def resolve(digest: KeyDigest) -> ResolvedKey:
        return resolved_key(await keys.resolve(digest.sha256))

    @router.post("", status_code=201)
    async def create(new: NewKey) -> CreatedKey:
        wish = KeyWish(
            name=new.name,
            scopes=None if new.scopes is None else parse_scopes(new.scopes),
            expires_at=aware(new.expires_at) if new.expires_at else None,
            team=new.team,
            team_id=new.team_id,
        )
        return created_key(*await keys.create(wish))

    @router.get("")
    async def list_all(team_id: str | None = None) -> list[KeyView]:
        return [key_view(key) for key in await keys.all(team_id=team_id)]

    @router.patch("/{key_id}")
    async def change(key_id: str, new: KeyChange) -> KeyView:
        return key_view(await keys.rename(key_id, new.name, team_id=new.team_id))

    @router.delete("/{key_id}", status_code=204)
    async def revoke(key_id: str, team_id: str | None = None) -> Response:
        await keys.revoke(key_id, team_id=team_id)
        return Response(status_code=204)

    return router
