from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from appliance.contracts.secrets import NewSecret, SecretPage, SecretUpdate, SecretView
from appliance.cubemaster.mapping import page_cursor, page_position
from appliance.cubemaster.persistence.secrets import SecretRecord
from appliance.cubemaster.services.secrets import SecretService


def secrets_router(secrets: SecretService) -> APIRouter:
    router = APIRouter(prefix="/v1/secrets")

    @router.post("", status_code=201)
    async def create(new: NewSecret) -> SecretView:
        return _view(await secrets.create(new.team_id, new.name, new.value, new.metadata))

    @router.get("")
    async def page(
        team_id: str, limit: Annotated[int, Query(ge=1, le=100)] = 100, cursor: str | None = None
    ) -> SecretPage:
        found, more = await secrets.page(team_id, after=page_position(cursor), limit=limit)
        return SecretPage(secrets=tuple(_view(one) for one in found), next_cursor=page_cursor(more))

    @router.get("/{selector}")
    async def get(selector: str, team_id: str) -> SecretView:
        return _view(await secrets.get(team_id, selector))

    @router.post("/{selector}")
    async def update(selector: str, new: SecretUpdate) -> SecretView:
        return _view(await secrets.update(new.team_id, selector, new.value, new.metadata))

    @router.delete("/{selector}", status_code=204)
    async def delete(selector: str, team_id: str) -> Response:
        await secrets.delete(team_id, selector)
        return Response(status_code=204)

    return router


def _view(secret: SecretRecord) -> SecretView:
    return SecretView(
        secret_id=secret.secret_id,
        name=secret.name,
        current_version=secret.current_version,
        metadata=dict(secret.metadata),
        created_at=secret.created_at,
        updated_at=secret.updated_at,
    )
