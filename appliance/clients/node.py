"""A Cubelet as a typed object: one method a route of `contracts/node.py`, which says what each does and raises."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from appliance.common.http import InternalClient
from appliance.contracts.node import (
    BuildProgress,
    BuildRequest,
    CreateSandbox,
    Deadline,
    NodeSandbox,
    NodeStatus,
)

_SANDBOXES = TypeAdapter(list[NodeSandbox])


class NodeClient:
    """Calls one node through `http`, which its maker closes.

    `deadline` bounds every call but `create_sandbox`, which waits for a guest and has `create_deadline`.
    """

    def __init__(
        self,
        http: InternalClient,
        *,
        deadline: timedelta = timedelta(seconds=10),
        create_deadline: timedelta = timedelta(seconds=45),
    ) -> None:
        self._http = http
        self._deadline = deadline
        self._create_deadline = create_deadline

    async def health(self) -> None:
        await self._call("GET", "/health")

    async def status(self) -> NodeStatus:
        return NodeStatus.model_validate(await self._call("GET", "/v1/node"))

    async def start_build(self, request: BuildRequest) -> None:
        await self._call("POST", "/v1/builds", request.model_dump(mode="json", exclude_none=True))

    async def get_build(self, build_id: str, *, log_offset: int = 0) -> BuildProgress:
        params = {"log_offset": str(log_offset)}
        return BuildProgress.model_validate(await self._call("GET", f"/v1/builds/{build_id}", params=params))

    async def delete_build(self, template_id: str, build_id: str) -> None:
        await self._call("DELETE", f"/v1/templates/{template_id}/builds/{build_id}")

    async def create_sandbox(self, sandbox_id: str, new: CreateSandbox) -> NodeSandbox:
        answer = await self._http.request(
            "PUT",
            f"/v1/sandboxes/{sandbox_id}",
            deadline=self._create_deadline,
            json=new.model_dump(mode="json", exclude_none=True),
        )
        return NodeSandbox.model_validate(answer)

    async def list_sandboxes(self) -> list[NodeSandbox]:
        return _SANDBOXES.validate_python(await self._call("GET", "/v1/sandboxes"))

    async def get_sandbox(self, sandbox_id: str) -> NodeSandbox:
        return NodeSandbox.model_validate(await self._call("GET", f"/v1/sandboxes/{sandbox_id}"))

    async def set_deadline(self, sandbox_id: str, end_at: datetime) -> None:
        body = Deadline(end_at=end_at).model_dump(mode="json")
        await self._call("PUT", f"/v1/sandboxes/{sandbox_id}/deadline", body)

    async def delete_sandbox(self, sandbox_id: str) -> None:
        await self._call("DELETE", f"/v1/sandboxes/{sandbox_id}")

    async def _call(self, method: str, path: str, json: Any = None, params: Mapping[str, str] | None = None) -> Any:
        return await self._http.request(method, path, deadline=self._deadline, json=json, params=params)
