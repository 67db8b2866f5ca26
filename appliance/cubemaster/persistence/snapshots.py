"""Snapshots of sandboxes: templates of that kind, each tag of which is one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, func, select

from appliance.cubemaster.persistence.paging import PagePosition, newest_first
from appliance.cubemaster.persistence.tables import builds, teams, template_aliases, template_tags, templates
from appliance.domain.ids import BuildId, SandboxId, TemplateId
from appliance.domain.template import TemplateKind


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    template_id: TemplateId
    tag: str
    build_id: BuildId
    team_slug: str
    name: str | None
    sandbox_id: SandboxId
    taken_at: datetime

    @property
    def snapshot_id(self) -> str:
        """What callers know it by, and start sandboxes from."""
        return f"{self.team_slug}/{self.name}:{self.tag}" if self.name else f"{self.template_id}:{self.tag}"

    @property
    def key(self) -> str:
        return f"{self.template_id}:{self.tag}"


_KEY = func.concat(template_tags.c.template_id, ":", template_tags.c.tag)
_COLUMNS = (
    templates.c.template_id,
    template_tags.c.tag,
    builds.c.build_id,
    teams.c.slug,
    template_aliases.c.alias,
    builds.c.source_sandbox_id,
    template_tags.c.assigned_at,
)
_ALL = (
    select(*_COLUMNS)
    .join(teams, teams.c.team_id == templates.c.team_id)
    .join(template_tags, template_tags.c.template_id == templates.c.template_id)
    .join(builds, builds.c.build_id == template_tags.c.build_id)
    .outerjoin(template_aliases, template_aliases.c.template_id == templates.c.template_id)
    .where(templates.c.kind == TemplateKind.SNAPSHOT, templates.c.deleted_at.is_(None))
)


class SnapshotRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, template_id: TemplateId, tag: str) -> SnapshotRecord | None:
        statement = _ALL.where(templates.c.template_id == template_id, template_tags.c.tag == tag)
        return next(iter(self._read(statement)), None)

    def page(
        self,
        *,
        team_id: str | None,
        sandbox_id: str | None,
        name: str | None,
        namespace: str | None,
        after: PagePosition | None,
        limit: int,
    ) -> list[SnapshotRecord]:
        """Return the first `limit` snapshots after a position, newest first."""
        statement = _ALL
        if team_id is not None:
            statement = statement.where(templates.c.team_id == team_id)
        if sandbox_id is not None:
            statement = statement.where(builds.c.source_sandbox_id == sandbox_id)
        if name is not None:
            statement = statement.where(template_aliases.c.alias == name)
        if namespace is not None:
            statement = statement.where(teams.c.slug == namespace)
        page = newest_first(statement, at=template_tags.c.assigned_at, key=_KEY, after=after, limit=limit)
        return self._read(page)

    def forks_before(self, at: datetime) -> Sequence[TemplateId]:
        """Return what forks that began before a time have left."""
        found = self._connection.scalars(
            select(templates.c.template_id).where(
                templates.c.kind == TemplateKind.FORK, templates.c.deleted_at.is_(None), templates.c.created_at < at
            )
        )
        return [TemplateId(one) for one in found]

    def _read(self, statement: Select[tuple[object, ...]]) -> list[SnapshotRecord]:
        return [
            SnapshotRecord(
                template_id=TemplateId(row.template_id),
                tag=row.tag,
                build_id=BuildId(row.build_id),
                team_slug=row.slug,
                name=row.alias,
                sandbox_id=SandboxId(row.source_sandbox_id),
                taken_at=row.assigned_at,
            )
            for row in self._connection.execute(statement)
        ]
