"""CubeMaster's routes about teams' secrets; `MasterClient.secrets` is one of these."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from appliance.common.http import InternalClient
from appliance.contracts.secrets import NewSecret, SecretPage, SecretUpdate, SecretView


class SecretsClient:
    def __init__(self, http: InternalClient, *, deadline: timedelta) -> None:
        self._http = http
        self._deadline = deadline

    async def create(self, new: NewSecret) -> SecretView:
        return SecretView.model_validate(await self._call("POST", "/v1/secrets", new))

    async def page(self, *, team_id: str, limit: int = 100, cursor: str | None = None) -> SecretPage:
        params = {"team_id": team_id, "limit": str(limit), **({"cursor": cursor} if cursor is not None else {})}
        return SecretPage.model_validate(await self._call("GET", "/v1/secrets", params=params))

    async def get(self, selector: str, *, team_id: str) -> SecretView:
        answer = await self._call("GET", f"/v1/secrets/{selector}", params={"team_id": team_id})
        return SecretView.model_validate(answer)

    async def update(self, selector: str, new: SecretUpdate) -> SecretView:
        return SecretView.model_validate(await self._call("POST", f"/v1/secrets/{selector}", new))

    async def delete(self, selector: str, *, team_id: str) -> None:
        await self._call("DELETE", f"/v1/secrets/{selector}", params={"team_id": team_id})

    async def _call(
        self,
        method: str,
        path: str,
        body: NewSecret | SecretUpdate | None = None,
        params: dict[str, str] | None = None,
    ) -> Any:
        json = body.model_dump(mode="json", exclude_none=True) if body else None
        return await self._http.request(method, path, deadline=self._deadline, json=json, params=params)
