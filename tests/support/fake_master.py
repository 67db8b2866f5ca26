"""CubeMaster as CubeAPI sees it, kept in memory: the same methods and errors as `clients.master.MasterClient`."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from appliance.contracts.egress import Egress
from appliance.contracts.errors import ErrorBody
from appliance.contracts.master import (
    Connected,
    Forked,
    NewConnect,
    NewEgress,
    NewFork,
    NewPause,
    NewResume,
    NewRollback,
    NewSandbox,
    NewSnapshot,
    NewTimeout,
    ResolvedKey,
    SandboxPage,
    SandboxState,
    SandboxView,
    SnapshotPage,
    SnapshotView,
)
from appliance.contracts.templates import BuildStatus, TemplateView
from appliance.cubemaster.mapping_egress import private_rules, shown_proxy
from appliance.domain.errors import (
    Conflict,
    CubeError,
    SandboxNotFound,
    SnapshotNotFound,
    TemplateNotFound,
    Unauthenticated,
)
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
        self.fail_pause: CubeError | None = None
        self.pauses: list[NewPause] = []
        self.snapshots: list[SnapshotView] = []
        self.forks: list[NewFork] = []
        self.rollbacks: list[NewRollback] = []
        self.resumes: list[NewResume | NewConnect] = []

    def add_key(self, key: str, team_id: str, *, scopes: tuple[str, ...] | None = None) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()
        self.keys[digest] = ResolvedKey(key_id=f"key-of-{team_id}", team_id=team_id, team_slug=team_id, scopes=scopes)

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
            on_timeout=new.on_timeout,
            auto_resume=new.auto_resume,
            **_shown_egress(new),
            allow_public_traffic=new.allow_public_traffic,
            mask_request_host=new.mask_request_host,
            https_ports=new.https_ports,
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

    async def pause_sandbox(self, sandbox_id: str, pause: NewPause) -> None:
        view = await self.get_sandbox(sandbox_id, team_id=pause.team_id)
        if self.fail_pause is not None:
            raise self.fail_pause
        if view.state is SandboxState.PAUSED:
            raise Conflict(f"Sandbox '{sandbox_id}' cannot be paused while in 'paused' state")
        self.pauses.append(pause)
        paused = {"state": SandboxState.PAUSED, "paused_at": NOW, "filesystem_only": not pause.memory}
        self.sandboxes[sandbox_id] = view.model_copy(update=paused)

    async def resume_sandbox(self, sandbox_id: str, resume: NewResume) -> SandboxView:
        view = await self.get_sandbox(sandbox_id, team_id=resume.team_id)
        if view.state is SandboxState.RUNNING:
            raise Conflict(f"Sandbox {sandbox_id} is already running")
        return self._resumed(view, resume)

    async def connect_sandbox(self, sandbox_id: str, connect: NewConnect) -> Connected:
        view = await self.get_sandbox(sandbox_id, team_id=connect.team_id)
        if view.state is SandboxState.PAUSED:
            return Connected(sandbox=self._resumed(view, connect), resumed=True)
        kept = NewTimeout(team_id=connect.team_id, timeout_s=connect.timeout_s, extend_only=True)
        return Connected(sandbox=await self.set_timeout(sandbox_id, kept), resumed=False)

    def _resumed(self, view: SandboxView, resume: NewResume | NewConnect) -> SandboxView:
        self.resumes.append(resume)
        running = {
            "state": SandboxState.RUNNING,
            "paused_at": None,
            "filesystem_only": False,
            "end_at": NOW + timedelta(seconds=resume.timeout_s),
        }
        self.sandboxes[view.sandbox_id] = view.model_copy(update=running)
        return self.sandboxes[view.sandbox_id]

    async def take_snapshot(self, sandbox_id: str, new: NewSnapshot) -> SnapshotView:
        view = await self.get_sandbox(sandbox_id, team_id=new.team_id)
        number = len(self.snapshots)
        self.snapshots.append(
            SnapshotView(
                snapshot_id=f"{view.team_id}/{new.name}:default" if new.name else f"snapshot{number}:default",
                names=(f"{view.team_id}/{new.name}",) if new.name else (),
                sandbox_id=sandbox_id,
                template_id=f"snapshot{number}",
                build_id="00000000-0000-4000-8000-000000000002",
                team_slug=view.team_id,
                taken_at=NOW,
            )
        )
        return self.snapshots[-1]

    async def list_snapshots(
        self,
        *,
        team_id: str | None = None,
        sandbox_id: str | None = None,
        name: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SnapshotPage:
        wanted = [
            one
            for one in self.snapshots
            if one.team_slug == team_id
            and sandbox_id in (None, one.sandbox_id)
            and (name is None or f"{team_id}/{name}" in one.names)
        ]
        start = int(cursor or 0)
        end = start + limit
        return SnapshotPage(snapshots=tuple(wanted[start:end]), next_cursor=str(end) if end < len(wanted) else None)

    async def roll_back_sandbox(self, sandbox_id: str, new: NewRollback) -> SandboxView:
        view = await self.get_sandbox(sandbox_id, team_id=new.team_id)
        if new.snapshot not in [one.snapshot_id for one in self.snapshots]:
            raise SnapshotNotFound(new.snapshot)
        self.rollbacks.append(new)
        return view

    async def fork_sandbox(self, sandbox_id: str, new: NewFork) -> list[Forked]:
        """Every second copy finds the team full."""
        view = await self.get_sandbox(sandbox_id, team_id=new.team_id)
        self.forks.append(new)
        return [
            Forked(error=ErrorBody(code=429, message="full"))
            if number % 2
            else Forked(sandbox=view.model_copy(update={"sandbox_id": new_sandbox_id()}))
            for number in range(new.count)
        ]

    async def set_egress(self, sandbox_id: str, new: NewEgress) -> None:
        view = await self.get_sandbox(sandbox_id, team_id=new.team_id)
        self.sandboxes[sandbox_id] = view.model_copy(update=_shown_egress(new))

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


def _shown_egress(new: Egress) -> dict[str, Any]:
    return {
        "allow_internet": new.allow_internet,
        "allow_out": new.allow_out,
        "deny_out": new.deny_out,
        "dns_servers": new.dns_servers,
        "rules": new.rules,
        "egress_proxy": shown_proxy(private_rules(new)),
    }
