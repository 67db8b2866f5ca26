"""CubeMaster as a typed object: one method a route of `contracts/master.py`, which says what each does and raises."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import TypeAdapter

from appliance.common.http import InternalClient
from appliance.contracts.master import (
    BuildView,
    CreatedKey,
    KeyDigest,
    KeyView,
    NewKey,
    NewSandbox,
    NewTemplate,
    NewTimeout,
    NodeView,
    ResolvedKey,
    Route,
    SandboxPage,
    SandboxState,
    SandboxView,
    TemplateView,
)
from appliance.contracts.node import EndedSandbox, NodeStatus

_KEYS = TypeAdapter(list[KeyView])
_TEMPLATES = TypeAdapter(list[TemplateView])
_NODES = TypeAdapter(list[NodeView])


class MasterClient:
    """Calls CubeMaster through `http`, which its maker closes.

    `deadline` bounds every call but `create_sandbox`, which waits for a guest and has `create_deadline`.
    """

    def __init__(
        self,
        http: InternalClient,
        *,
        deadline: timedelta = timedelta(seconds=10),
        create_deadline: timedelta = timedelta(seconds=60),
    ) -> None:
        self._http = http
        self._deadline = deadline
        self._create_deadline = create_deadline

    async def health(self) -> None:
        await self._call("GET", "/health")

    # Keys

    async def resolve_key(self, sha256: str) -> ResolvedKey:
        body = KeyDigest(sha256=sha256)
        return ResolvedKey.model_validate(await self._call("POST", "/v1/keys/resolve", _dump(body)))

    async def create_key(self, new: NewKey) -> CreatedKey:
        return CreatedKey.model_validate(await self._call("POST", "/v1/keys", _dump(new)))

    async def list_keys(self) -> list[KeyView]:
        return _KEYS.validate_python(await self._call("GET", "/v1/keys"))

    async def revoke_key(self, key_id: str) -> None:
        await self._call("DELETE", f"/v1/keys/{key_id}")

    # Sandboxes

    async def create_sandbox(self, new: NewSandbox) -> SandboxView:
        answer = await self._http.request("POST", "/v1/sandboxes", deadline=self._create_deadline, json=_dump(new))
        return SandboxView.model_validate(answer)

    async def list_sandboxes(
        self,
        *,
        team_id: str | None = None,
        states: Collection[SandboxState] = (),
        template: str | None = None,
        metadata: Mapping[str, str] | None = None,
        order: Literal["asc", "desc"] = "desc",
        started_after: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SandboxPage:
        """Return one page. No `states` means running and paused. All of `metadata` must match."""
        params = _present(
            team_id=team_id,
            state=",".join(states) or None,
            template=template,
            metadata=json.dumps(dict(metadata)) if metadata else None,
            order=order,
            started_after=started_after.isoformat() if started_after else None,
            limit=str(limit),
            cursor=cursor,
        )
        return SandboxPage.model_validate(await self._call("GET", "/v1/sandboxes", params=params))

    async def get_sandbox(self, sandbox_id: str, *, team_id: str | None = None, ended: bool = False) -> SandboxView:
        params = _present(team_id=team_id, ended="true" if ended else None)
        return SandboxView.model_validate(await self._call("GET", f"/v1/sandboxes/{sandbox_id}", params=params))

    async def set_timeout(self, sandbox_id: str, new: NewTimeout) -> SandboxView:
        path = f"/v1/sandboxes/{sandbox_id}/timeout"
        return SandboxView.model_validate(await self._call("POST", path, _dump(new)))

    async def kill_sandbox(self, sandbox_id: str, *, team_id: str | None = None) -> None:
        await self._call("DELETE", f"/v1/sandboxes/{sandbox_id}", params=_present(team_id=team_id))

    # Templates and builds

    async def create_template(self, new: NewTemplate) -> BuildView:
        return BuildView.model_validate(await self._call("POST", "/v1/templates", _dump(new)))

    async def list_templates(self, *, team_id: str | None = None) -> list[TemplateView]:
        answer = await self._call("GET", "/v1/templates", params=_present(team_id=team_id))
        return _TEMPLATES.validate_python(answer)

    async def get_template(self, reference: str, *, team_id: str | None = None) -> TemplateView:
        answer = await self._call("GET", f"/v1/templates/{reference}", params=_present(team_id=team_id))
        return TemplateView.model_validate(answer)

    async def delete_template(self, reference: str, *, team_id: str | None = None) -> None:
        await self._call("DELETE", f"/v1/templates/{reference}", params=_present(team_id=team_id))

    async def get_build(self, build_id: str, *, log_offset: int = 0, team_id: str | None = None) -> BuildView:
        params = _present(log_offset=str(log_offset), team_id=team_id)
        return BuildView.model_validate(await self._call("GET", f"/v1/builds/{build_id}", params=params))

    # Nodes and routes

    async def list_nodes(self) -> list[NodeView]:
        return _NODES.validate_python(await self._call("GET", "/v1/nodes"))

    async def heartbeat(self, status: NodeStatus) -> None:
        await self._call("POST", f"/v1/nodes/{status.node_id}/heartbeat", _dump(status))

    async def report_ended(self, node_id: str, ended: Sequence[EndedSandbox]) -> None:
        await self._call("POST", f"/v1/nodes/{node_id}/ended", [_dump(one) for one in ended])

    async def get_route(self, sandbox_id: str) -> Route:
        return Route.model_validate(await self._call("GET", f"/v1/routes/{sandbox_id}"))

    async def _call(self, method: str, path: str, json: Any = None, params: Mapping[str, str] | None = None) -> Any:
        return await self._http.request(method, path, deadline=self._deadline, json=json, params=params)


def _dump(model: Any) -> Any:
    return model.model_dump(mode="json", exclude_none=True)


def _present(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
