from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.master import CreatedKey, KeyDigest, KeyView, NewKey, ResolvedKey
from appliance.cubemaster.mapping import created_key, key_view, resolved_key
from appliance.cubemaster.services.keys import KeyService


def keys_router(keys: KeyService) -> APIRouter:
    router = APIRouter(prefix="/v1/keys")

    @router.post("/resolve")
    async def resolve(digest: KeyDigest) -> ResolvedKey:
        return resolved_key(await keys.resolve(digest.sha256))

    @router.post("", status_code=201)
    async def create(new: NewKey) -> CreatedKey:
        return created_key(*await keys.create(team=new.team, name=new.name))

    @router.get("")
    async def list_all() -> list[KeyView]:
        return [key_view(key) for key in await keys.all()]

    @router.delete("/{key_id}", status_code=204)
    async def revoke(key_id: str) -> Response:
        await keys.revoke(key_id)
        return Response(status_code=204)

    return router
