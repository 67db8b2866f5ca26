"""A Cubelet as a typed object: one method a route of `contracts/node.py`, which says what each does and raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from appliance.clients.node_volumes import NodeVolumesClient
from appliance.common.http import InternalClient
from appliance.contracts.node import (
    AccessToken,
    BuildProgress,
    BuildRequest,
    CreateSandbox,
    Deadline,
    MetricSample,
    NodeSandbox,
    NodeStatus,
    Pause,
    Resume,
    Rollback,
    SandboxLogEntry,
    Snapshot,
    SnapshotTaken,
)
from appliance.contracts.node_network import NetworkPolicy

_SAMPLES = TypeAdapter(list[MetricSample])
_LATEST = TypeAdapter(dict[str, MetricSample])
_LOGS = TypeAdapter(list[SandboxLogEntry])
_SANDBOXES = TypeAdapter(list[NodeSandbox])


class NodeClient:
    """Calls one node through `http`, which its maker closes.

    `deadline` bounds every call but those that wait for a guest, or copy what it has: those have `create_deadline`, or
    `save_deadline`.
    """

    def __init__(
        self,
        http: InternalClient,
        *,
        deadline: timedelta = timedelta(seconds=10),
        create_deadline: timedelta = timedelta(seconds=45),
        save_deadline: timedelta = timedelta(minutes=5),
    ) -> None:
        self._http = http
        self._deadline = deadline
        self.volumes = NodeVolumesClient(http, deadline=deadline, create_deadline=create_deadline)
        self._create_deadline = create_deadline
        self._save_deadline = save_deadline

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

    async def set_access_token(self, sandbox_id: str, access_token: str | None) -> None:
        body = AccessToken(access_token=access_token).model_dump(mode="json")
        await self._call("PUT", f"/v1/sandboxes/{sandbox_id}/access-token", body)

    async def set_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        body = policy.model_dump(mode="json")
        await self._call("PUT", f"/v1/sandboxes/{sandbox_id}/network", body)

    async def get_metrics(self, sandbox_id: str, *, start: datetime | None, end: datetime | None) -> list[MetricSample]:
        params = {name: at.isoformat() for name, at in (("start", start), ("end", end)) if at is not None}
        answer = await self._call("GET", f"/v1/sandboxes/{sandbox_id}/metrics", params=params)
        return _SAMPLES.validate_python(answer)

    async def get_logs(
        self,
        sandbox_id: str,
        *,
        at: datetime | None,
        backward: bool,
        limit: int,
        level: str | None,
        search: str | None,
    ) -> list[SandboxLogEntry]:
        given = {
            "at": at.isoformat() if at is not None else None,
            "backward": "true" if backward else "false",
            "limit": str(limit),
            "level": level,
            "search": search,
        }
        params = {name: value for name, value in given.items() if value is not None}
        return _LOGS.validate_python(await self._call("GET", f"/v1/sandboxes/{sandbox_id}/logs", params=params))

    async def latest_metrics(self, sandbox_ids: Sequence[str]) -> dict[str, MetricSample]:
        params = {"sandbox_ids": ",".join(sandbox_ids)}
        return _LATEST.validate_python(await self._call("GET", "/v1/sandbox-metrics", params=params))

    async def pause_sandbox(self, sandbox_id: str, pause: Pause) -> None:
        await self._http.request(
            "POST",
            f"/v1/sandboxes/{sandbox_id}/pause",
            deadline=self._save_deadline,
            json=pause.model_dump(mode="json"),
        )

    async def resume_sandbox(self, sandbox_id: str, resume: Resume) -> NodeSandbox:
        answer = await self._http.request(
            "POST",
            f"/v1/sandboxes/{sandbox_id}/resume",
            deadline=self._save_deadline,
            json=resume.model_dump(mode="json", exclude_none=True),
        )
        return NodeSandbox.model_validate(answer)

    async def snapshot_sandbox(self, sandbox_id: str, snapshot: Snapshot) -> SnapshotTaken:
        answer = await self._http.request(
            "POST",
            f"/v1/sandboxes/{sandbox_id}/snapshot",
            deadline=self._save_deadline,
            json=snapshot.model_dump(mode="json"),
        )
        return SnapshotTaken.model_validate(answer)

    async def roll_back_sandbox(self, sandbox_id: str, rollback: Rollback) -> NodeSandbox:
        answer = await self._http.request(
            "POST",
            f"/v1/sandboxes/{sandbox_id}/rollback",
            deadline=self._save_deadline,
            json=rollback.model_dump(mode="json", exclude_none=True),
        )
        return NodeSandbox.model_validate(answer)

    async def delete_sandbox(self, sandbox_id: str) -> None:
        await self._call("DELETE", f"/v1/sandboxes/{sandbox_id}")

    async def _call(self, method: str, path: str, json: Any = None, params: Mapping[str, str] | None = None) -> Any:
        return await self._http.request(method, path, deadline=self._deadline, json=json, params=params)
