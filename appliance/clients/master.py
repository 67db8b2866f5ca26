"""CubeMaster as a typed object: one method a route of `contracts/master.py`, which says what each does and raises."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import TypeAdapter

from appliance.clients.secrets import SecretsClient
from appliance.clients.teams import TeamsClient
from appliance.clients.volumes import VolumesClient
from appliance.common.http import InternalClient
from appliance.contracts.egress import SigningKeys
from appliance.contracts.master import (
    Connected,
    CreatedKey,
    Forked,
    KeyChange,
    KeyDigest,
    KeyView,
    LogLevel,
    NewConnect,
    NewEgress,
    NewFork,
    NewKey,
    NewPause,
    NewResume,
    NewRollback,
    NewSandbox,
    NewSnapshot,
    NewTimeout,
    NodeView,
    ResolvedKey,
    Route,
    SandboxPage,
    SandboxState,
    SandboxView,
    SnapshotPage,
    SnapshotView,
)
from appliance.contracts.node import BuildLogEntry, EndedSandbox, MetricSample, NodeStatus, SandboxLogEntry
from appliance.contracts.teams import NodeDraining
from appliance.contracts.templates import (
    AssignedTags,
    BuildPage,
    BuildStart,
    BuildView,
    NewTags,
    NewTemplate,
    NewTemplateBuild,
    OldTags,
    RequestedBuild,
    TagView,
    TemplateChange,
    TemplatePage,
    TemplateView,
    Upload,
)

_KEYS = TypeAdapter(list[KeyView])
_TEMPLATES = TypeAdapter(list[TemplateView])
_TAGS = TypeAdapter(list[TagView])
_LOGS = TypeAdapter(list[BuildLogEntry])
_SANDBOX_LOGS = TypeAdapter(list[SandboxLogEntry])
_SAMPLES = TypeAdapter(list[MetricSample])
_LATEST = TypeAdapter(dict[str, MetricSample])
_FORKED = TypeAdapter(list[Forked])
_FORK_TURNS = 4
_NODES = TypeAdapter(list[NodeView])


class MasterClient:
    """Calls CubeMaster through `http`, which its maker closes.

    `deadline` bounds every call but those that wait for a guest, or copy what it has: those have `create_deadline`, or
    `save_deadline`. What streams files has `files_deadline`.
    """

    def __init__(
        self,
        http: InternalClient,
        *,
        deadline: timedelta = timedelta(seconds=10),
        create_deadline: timedelta = timedelta(seconds=60),
        save_deadline: timedelta = timedelta(seconds=330),
        files_deadline: timedelta = timedelta(minutes=30),
    ) -> None:
        self._http = http
        self._deadline = deadline
        self.teams = TeamsClient(http, deadline=deadline)
        self.secrets = SecretsClient(http, deadline=deadline)
        self.volumes = VolumesClient(http, deadline=deadline, create_deadline=create_deadline)
        self._create_deadline = create_deadline
        self._save_deadline = save_deadline
        self._files_deadline = files_deadline

    async def health(self) -> None:
        await self._call("GET", "/health")

    # Keys

    async def resolve_key(self, sha256: str) -> ResolvedKey:
        body = KeyDigest(sha256=sha256)
        return ResolvedKey.model_validate(await self._call("POST", "/v1/keys/resolve", _dump(body)))

    async def create_key(self, new: NewKey) -> CreatedKey:
        return CreatedKey.model_validate(await self._call("POST", "/v1/keys", _dump(new)))

    async def list_keys(self, *, team_id: str | None = None) -> list[KeyView]:
        return _KEYS.validate_python(await self._call("GET", "/v1/keys", params=_present(team_id=team_id)))

    async def change_key(self, key_id: str, change: KeyChange) -> KeyView:
        return KeyView.model_validate(await self._call("PATCH", f"/v1/keys/{key_id}", _dump(change)))

    async def revoke_key(self, key_id: str, *, team_id: str | None = None) -> None:
        await self._call("DELETE", f"/v1/keys/{key_id}", params=_present(team_id=team_id))

    # Sandboxes

    async def create_sandbox(self, new: NewSandbox) -> SandboxView:
        answer = await self._http.request("POST", "/v1/sandboxes", deadline=self._create_deadline, json=_dump(new))
        return SandboxView.model_validate(answer)

    async def pause_sandbox(self, sandbox_id: str, pause: NewPause) -> None:
        await self._wait(f"/v1/sandboxes/{sandbox_id}/pause", _dump(pause))

    async def resume_sandbox(self, sandbox_id: str, resume: NewResume) -> SandboxView:
        return SandboxView.model_validate(await self._wait(f"/v1/sandboxes/{sandbox_id}/resume", _dump(resume)))

    async def connect_sandbox(self, sandbox_id: str, connect: NewConnect) -> Connected:
        return Connected.model_validate(await self._wait(f"/v1/sandboxes/{sandbox_id}/connect", _dump(connect)))

    async def take_snapshot(self, sandbox_id: str, new: NewSnapshot) -> SnapshotView:
        return SnapshotView.model_validate(await self._wait(f"/v1/sandboxes/{sandbox_id}/snapshots", _dump(new)))

    async def list_snapshots(
        self,
        *,
        team_id: str | None = None,
        sandbox_id: str | None = None,
        name: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SnapshotPage:
        params = _present(team_id=team_id, sandbox_id=sandbox_id, name=name, limit=str(limit), cursor=cursor)
        return SnapshotPage.model_validate(await self._call("GET", "/v1/snapshots", params=params))

    async def roll_back_sandbox(self, sandbox_id: str, rollback: NewRollback) -> SandboxView:
        return SandboxView.model_validate(await self._wait(f"/v1/sandboxes/{sandbox_id}/rollback", _dump(rollback)))

    async def fork_sandbox(self, sandbox_id: str, new: NewFork) -> list[Forked]:
        # A snapshot first, then the copies, several at a time.
        path, deadline = f"/v1/sandboxes/{sandbox_id}/fork", self._save_deadline + _FORK_TURNS * self._create_deadline
        return _FORKED.validate_python(await self._http.request("POST", path, deadline=deadline, json=_dump(new)))

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

    async def set_egress(self, sandbox_id: str, new: NewEgress) -> None:
        await self._call("PUT", f"/v1/sandboxes/{sandbox_id}/network", _dump(new))

    async def get_signing_keys(self) -> SigningKeys:
        return SigningKeys.model_validate(await self._call("GET", "/v1/workload-token-keys"))

    async def get_metrics(
        self, sandbox_id: str, *, start: datetime | None, end: datetime | None, team_id: str | None = None
    ) -> list[MetricSample]:
        params = _present(
            start=start.isoformat() if start else None, end=end.isoformat() if end else None, team_id=team_id
        )
        answer = await self._call("GET", f"/v1/sandboxes/{sandbox_id}/metrics", params=params)
        return _SAMPLES.validate_python(answer)

    async def get_sandbox_logs(
        self,
        sandbox_id: str,
        *,
        at: datetime | None,
        limit: int,
        backward: bool = False,
        level: LogLevel | None = None,
        search: str | None = None,
        team_id: str | None = None,
    ) -> list[SandboxLogEntry]:
        """Return entries from `at` on, or `backward` from it into the past."""
        params = _present(
            at=at.isoformat() if at else None,
            backward=str(backward).lower(),
            limit=str(limit),
            level=level,
            search=search,
            team_id=team_id,
        )
        return _SANDBOX_LOGS.validate_python(await self._call("GET", f"/v1/sandboxes/{sandbox_id}/logs", params=params))

    async def latest_metrics(
        self, sandbox_ids: Sequence[str], *, team_id: str | None = None
    ) -> dict[str, MetricSample]:
        """Return the newest sample of each sandbox that has one; what is not the team's is not there."""
        params = _present(sandbox_ids=",".join(sandbox_ids), team_id=team_id)
        return _LATEST.validate_python(await self._call("GET", "/v1/sandbox-metrics", params=params))

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

    async def page_templates(self, *, team_id: str, limit: int = 100, cursor: str | None = None) -> TemplatePage:
        params = _present(team_id=team_id, limit=str(limit), cursor=cursor)
        return TemplatePage.model_validate(await self._call("GET", "/v1/template-pages", params=params))

    async def default_templates(self) -> list[TemplateView]:
        return _TEMPLATES.validate_python(await self._call("GET", "/v1/default-templates"))

    async def change_template(self, reference: str, change: TemplateChange) -> TemplateView:
        return TemplateView.model_validate(await self._call("PATCH", f"/v1/templates/{reference}", _dump(change)))

    async def assign_tags(self, new: NewTags) -> AssignedTags:
        return AssignedTags.model_validate(await self._call("POST", "/v1/template-tags", _dump(new)))

    async def remove_tags(self, old: OldTags) -> None:
        await self._call("DELETE", "/v1/template-tags", _dump(old))

    async def list_tags(self, template: str, *, team_id: str | None = None) -> list[TagView]:
        params = _present(template=template, team_id=team_id)
        return _TAGS.validate_python(await self._call("GET", "/v1/template-tags", params=params))

    async def page_builds(
        self, template: str, *, team_id: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> BuildPage:
        params = _present(template=template, team_id=team_id, limit=str(limit), cursor=cursor)
        return BuildPage.model_validate(await self._call("GET", "/v1/builds", params=params))

    async def get_build(
        self,
        build_id: str,
        *,
        log_offset: int = 0,
        log_limit: int | None = None,
        log_level: LogLevel | None = None,
        team_id: str | None = None,
    ) -> BuildView:
        params = _present(
            log_offset=str(log_offset),
            log_limit=str(log_limit) if log_limit is not None else None,
            log_level=log_level,
            team_id=team_id,
        )
        return BuildView.model_validate(await self._call("GET", f"/v1/builds/{build_id}", params=params))

    async def get_build_logs(
        self,
        build_id: str,
        *,
        at: datetime | None,
        backward: bool,
        limit: int,
        level: LogLevel | None,
        template_id: str,
        team_id: str | None = None,
    ) -> list[BuildLogEntry]:
        """Return entries from `at` on, or `backward` from it into the past."""
        params = _present(
            at=at.isoformat() if at else None,
            backward=str(backward).lower(),
            limit=str(limit),
            level=level,
            template_id=template_id,
            team_id=team_id,
        )
        return _LOGS.validate_python(await self._call("GET", f"/v1/builds/{build_id}/logs", params=params))

    def template_files(
        self, template_id: str, files_hash: str, most: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream the tar that a COPY step unpacks; InvalidRequest where it has more than `most` bytes."""
        path = f"/v1/template-files/{template_id}/{files_hash}"
        return self._http.stream("GET", path, deadline=self._files_deadline, most=most)

    # Builds of the template builder

    async def request_build(self, new: NewTemplateBuild) -> RequestedBuild:
        return RequestedBuild.model_validate(await self._call("POST", "/v1/template-builds", _dump(new)))

    async def start_build(self, build_id: str, start: BuildStart) -> BuildView:
        return BuildView.model_validate(await self._call("POST", f"/v1/builds/{build_id}/start", _dump(start)))

    async def ask_upload(self, template: str, files_hash: str, *, team_id: str) -> Upload:
        params = {"template": template, "files_hash": files_hash, "team_id": team_id}
        return Upload.model_validate(await self._call("GET", "/v1/template-uploads", params=params))

    async def upload(
        self,
        template_id: str,
        files_hash: str,
        body: AsyncIterator[bytes],
        *,
        length: int,
        expires: str,
        signature: str,
        deadline: timedelta,
    ) -> None:
        """Put the files of a COPY as they come, under the leave that `ask_upload` gave."""
        await self._http.upload(
            f"/v1/template-files/{template_id}/{files_hash}",
            body,
            length=length,
            params={"expires": expires, "signature": signature},
            deadline=deadline,
        )

    # Nodes and routes

    async def list_nodes(self) -> list[NodeView]:
        return _NODES.validate_python(await self._call("GET", "/v1/nodes"))

    async def set_draining(self, node_id: str, *, draining: bool) -> None:
        await self._call("PUT", f"/v1/nodes/{node_id}/draining", _dump(NodeDraining(draining=draining)))

    async def heartbeat(self, status: NodeStatus) -> None:
        await self._call("POST", f"/v1/nodes/{status.node_id}/heartbeat", _dump(status))

    async def report_ended(self, node_id: str, ended: Sequence[EndedSandbox]) -> None:
        await self._call("POST", f"/v1/nodes/{node_id}/ended", [_dump(one) for one in ended])

    async def get_route(self, sandbox_id: str) -> Route:
        return Route.model_validate(await self._call("GET", f"/v1/routes/{sandbox_id}"))

    async def wake(self, sandbox_id: str) -> Route:
        """Resume it for traffic, unless it runs; return where the traffic goes."""
        return Route.model_validate(await self._wait(f"/v1/routes/{sandbox_id}/wake", None))

    async def _wait(self, path: str, json: Any) -> Any:
        return await self._http.request("POST", path, deadline=self._save_deadline, json=json)

    async def _call(self, method: str, path: str, json: Any = None, params: Mapping[str, str] | None = None) -> Any:
        return await self._http.request(method, path, deadline=self._deadline, json=json, params=params)


def _dump(model: Any) -> Any:
    return model.model_dump(mode="json", exclude_none=True)


def _present(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
