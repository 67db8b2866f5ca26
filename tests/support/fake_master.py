"""CubeMaster as CubeAPI sees it, kept in memory: the same methods and errors as `clients.master.MasterClient`."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from appliance.contracts.master import (
    BuildStatus,
    NewEgress,
    NewSandbox,
    NewTimeout,
    ResolvedKey,
    SandboxPage,
    SandboxState,
    SandboxView,
    TemplateView,
)
from appliance.domain.errors import CubeError, SandboxNotFound, TemplateNotFound, Unauthenticated
from appliance.domain.ids import new_sandbox_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class FakeMaster:
    def __init__(self) -> None:
        self.keys: dict[str, ResolvedKey] = {}
        self.sandboxes: dict[str, SandboxView] = {}
        self.templates: dict[str, TemplateView] = {}
        self.resolved = 0
        self.created: list[NewSandbox] = []
        self.fail_create: CubeError | None = None

    def add_key(self, key: str, team_id: str) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()
        self.keys[digest] = ResolvedKey(key_id=f"key-of-{team_id}", team_id=team_id, team_slug=team_id)

    def add_template(self, template_id: str, *, team_id: str, alias: str, public: bool = False) -> None:
        self.templates[alias] = self.templates[template_id] = TemplateView(
            template_id=template_id,
            build_id="00000000-0000-4000-8000-000000000001",
            team_id=team_id,
            team_slug=team_id,
            aliases=(alias,),
            public=public,
            vcpus=2,
            memory_mib=512,
            disk_size_mib=1024,
            envd_version="0.6.13",
            status=BuildStatus.READY,
            image="oci:/images/base",
            created_at=NOW,
            updated_at=NOW,
        )

    async def resolve_key(self, sha256: str) -> ResolvedKey:
        self.resolved += 1
        try:
            return self.keys[sha256]
        except KeyError:
            raise Unauthenticated("Invalid API key") from None

    async def create_sandbox(self, new: NewSandbox) -> SandboxView:
        if self.fail_create is not None:
            raise self.fail_create
        template = await self.get_template(new.template, team_id=new.team_id)
        self.created.append(new)
        view = SandboxView(
            sandbox_id=new_sandbox_id(),
            team_id=new.team_id,
            template_id=template.template_id,
            build_id=template.build_id,
            alias=template.aliases[0],
            state=SandboxState.RUNNING,
            started_at=NOW,
            end_at=NOW + timedelta(seconds=new.timeout_s),
            vcpus=template.vcpus,
            memory_mib=template.memory_mib,
            disk_size_mib=template.disk_size_mib,
            metadata=new.metadata,
            allow_internet=new.allow_internet,
            allow_out=new.allow_out,
            deny_out=new.deny_out,
            allow_public_traffic=new.allow_public_traffic,
            mask_request_host=new.mask_request_host,
            envd_version=template.envd_version,
            access_token="ab" * 32 if new.secure else None,
            traffic_token=None if new.allow_public_traffic else "cd" * 32,
            node_id="node-1",
        )
        self.sandboxes[view.sandbox_id] = view
        return view

    async def list_sandboxes(
        self,
        *,
        team_id: str | None = None,
        states: tuple[SandboxState, ...] = (),
        template: str | None = None,
        metadata: dict[str, str] | None = None,
        order: str = "desc",
        started_after: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SandboxPage:
        if template is not None:
            await self.get_template(template, team_id=team_id)
        wanted = [
            view
            for view in self.sandboxes.values()
            if view.team_id == team_id
            and (not states or view.state in states)
            and all(view.metadata.get(key) == value for key, value in (metadata or {}).items())
        ]
        start = int(cursor or 0)
        end = start + limit
        return SandboxPage(
            sandboxes=tuple(wanted[start:end]),
            next_cursor=str(end) if end < len(wanted) else None,
            total_running=len(wanted),
        )

    async def get_sandbox(self, sandbox_id: str, *, team_id: str | None = None, ended: bool = False) -> SandboxView:
        view = self.sandboxes.get(sandbox_id)
        if view is None or view.team_id != team_id:
            raise SandboxNotFound(sandbox_id)
        return view

    async def set_timeout(self, sandbox_id: str, new: NewTimeout) -> SandboxView:
        view = await self.get_sandbox(sandbox_id, team_id=new.team_id)
        end_at = NOW + timedelta(seconds=new.timeout_s)
        if new.extend_only:
            end_at = max(end_at, view.end_at)
        self.sandboxes[sandbox_id] = view.model_copy(update={"end_at": end_at})
        return self.sandboxes[sandbox_id]

    async def set_egress(self, sandbox_id: str, new: NewEgress) -> None:
        view = await self.get_sandbox(sandbox_id, team_id=new.team_id)
        rules = {"allow_internet": new.allow_internet, "allow_out": new.allow_out, "deny_out": new.deny_out}
        self.sandboxes[sandbox_id] = view.model_copy(update=rules)

    async def kill_sandbox(self, sandbox_id: str, *, team_id: str | None = None) -> None:
        await self.get_sandbox(sandbox_id, team_id=team_id)
        del self.sandboxes[sandbox_id]

    async def list_templates(self, *, team_id: str | None = None) -> list[TemplateView]:
        return [view for name, view in self.templates.items() if name == view.template_id and view.team_id == team_id]

    async def get_template(self, reference: str, *, team_id: str | None = None) -> TemplateView:
        view = self.templates.get(reference)
        if view is None:
            raise TemplateNotFound(reference)
        return view
