"""Templates, their names and tags."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, and_, func, insert, or_, select, update
from sqlalchemy.dialects.mysql import insert as mysql_insert

from appliance.cubemaster.persistence.build_rows import read_build
from appliance.cubemaster.persistence.paging import PagePosition, newest_first
from appliance.cubemaster.persistence.tables import (
    builds,
    replicas,
    sandboxes,
    teams,
    template_aliases,
    template_tags,
    templates,
)
from appliance.domain.ids import BuildId, NodeId, TeamId, TemplateId
from appliance.domain.template import Build, BuildStatus, ReplicaState, TemplateKind, TemplateReference


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """What a reference leads to. `build` is None where the template has no such tag (yet)."""

    template_id: TemplateId
    team_id: TeamId
    alias: str | None
    build: Build | None


@dataclass(frozen=True, slots=True)
class TemplateRecord:
    template_id: TemplateId
    team_id: TeamId
    team_slug: str
    public: bool
    created_at: datetime
    updated_at: datetime
    aliases: tuple[str, ...]
    build: Build
    """The newest READY build, or the newest where none is ready."""
    build_count: int
    nodes: tuple[NodeId, ...]
    spawn_count: int
    last_spawned_at: datetime | None


@dataclass(frozen=True, slots=True)
class AssignedTag:
    tag: str
    build_id: BuildId
    assigned_at: datetime


_ANY = (
    select(templates, teams.c.slug)
    .join(teams, teams.c.team_id == templates.c.team_id)
    .where(templates.c.deleted_at.is_(None))
)
_SHOWN = _ANY.where(templates.c.kind == TemplateKind.TEMPLATE)


class TemplateRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        template_id: TemplateId,
        *,
        team_id: TeamId,
        public: bool,
        now: datetime,
        kind: TemplateKind = TemplateKind.TEMPLATE,
    ) -> None:
        self._connection.execute(
            insert(templates),
            {
                "template_id": template_id,
                "team_id": team_id,
                "kind": kind,
                "public": public,
                "created_at": now,
                "updated_at": now,
            },
        )

    def touch(self, template_id: TemplateId, *, public: bool | None = None, now: datetime) -> None:
        values: dict[str, object] = {"updated_at": now}
        if public is not None:
            values["public"] = public
        self._connection.execute(update(templates).where(templates.c.template_id == template_id).values(values))

    def add_alias(self, alias: str, template_id: TemplateId, *, team_id: TeamId) -> None:
        self._connection.execute(
            insert(template_aliases), {"team_id": team_id, "alias": alias, "template_id": template_id}
        )

    def of_alias(self, alias: str, *, team_id: TeamId) -> TemplateId | None:
        found = self._connection.scalar(
            select(template_aliases.c.template_id).where(
                template_aliases.c.team_id == team_id, template_aliases.c.alias == alias
            )
        )
        return TemplateId(found) if found else None

    def point_tag(self, template_id: TemplateId, tag: str, build_id: BuildId, *, now: datetime) -> None:
        assigned = {"build_id": build_id, "assigned_at": now}
        self._connection.execute(
            mysql_insert(template_tags)
            .values(template_id=template_id, tag=tag, **assigned)
            .on_duplicate_key_update(**assigned)
        )

    def unpoint_tags(self, template_id: TemplateId, tags: Collection[str]) -> None:
        self._connection.execute(
            template_tags.delete().where(template_tags.c.template_id == template_id, template_tags.c.tag.in_(tags))
        )

    def tags(self, template_id: TemplateId) -> list[AssignedTag]:
        rows = self._connection.execute(
            select(template_tags.c.tag, template_tags.c.build_id, template_tags.c.assigned_at)
            .where(template_tags.c.template_id == template_id)
            .order_by(template_tags.c.assigned_at.desc(), template_tags.c.tag)
        )
        return [AssignedTag(tag, BuildId(build_id), at) for tag, build_id, at in rows]

    def resolve(self, reference: TemplateReference, *, team_id: str | None) -> NamedTemplate | None:
        """Return what `reference` means to that team: its own template, else a public one; to None, any.

        One query: it is on the path of every create.
        """
        own = templates.c.team_id == team_id
        statement = (
            select(templates.c.template_id, templates.c.team_id, template_aliases.c.alias, builds)
            .join(teams, teams.c.team_id == templates.c.team_id)
            .outerjoin(template_aliases, template_aliases.c.template_id == templates.c.template_id)
            .outerjoin(
                template_tags,
                and_(
                    template_tags.c.template_id == templates.c.template_id,
                    template_tags.c.tag == reference.tag,
                ),
            )
            .outerjoin(builds, builds.c.build_id == template_tags.c.build_id)
            .where(
                templates.c.deleted_at.is_(None),
                or_(template_aliases.c.alias == reference.name, templates.c.template_id == reference.name),
            )
            .order_by(templates.c.created_at, template_aliases.c.alias)
            .limit(1)
        )
        if reference.namespace is not None:
            statement = statement.where(teams.c.slug == reference.namespace)
        if team_id is not None:
            statement = (
                statement.where(or_(own, templates.c.public))
                .order_by(None)
                .order_by(own.desc(), templates.c.created_at, template_aliases.c.alias)
            )
        row = self._connection.execute(statement).one_or_none()
        if row is None:
            return None
        return NamedTemplate(
            template_id=TemplateId(row.template_id),
            team_id=TeamId(row.team_id),
            alias=row.alias,
            build=read_build(row) if row.build_id else None,
        )

    def team_of(self, template_id: TemplateId) -> TeamId | None:
        """Return whose it is, or None where it is not there, or was deleted."""
        found = self._connection.scalar(
            select(templates.c.team_id).where(templates.c.template_id == template_id, templates.c.deleted_at.is_(None))
        )
        return TeamId(found) if found else None

    def owned(self, template_id: TemplateId, team_id: str) -> bool:
        owner = self._connection.scalar(select(templates.c.team_id).where(templates.c.template_id == template_id))
        return owner == team_id

    def kind(self, template_id: TemplateId) -> TemplateKind:
        found = self._connection.scalar(select(templates.c.kind).where(templates.c.template_id == template_id))
        return TemplateKind(str(found))

    def lock(self, template_id: TemplateId) -> bool:
        """Keep others from starting sandboxes of it until this transaction ends; return False if it is gone.

        A new sandbox's foreign key needs a shared lock on this row.
        """
        found = self._connection.scalar(
            select(templates.c.template_id)
            .where(templates.c.template_id == template_id, templates.c.deleted_at.is_(None))
            .with_for_update()
        )
        return found is not None

    def hide(self, template_id: TemplateId, *, now: datetime) -> None:
        """Delete for every reader, free its names, and let no more sandboxes start from its replicas."""
        here = template_id
        its_builds = select(builds.c.build_id).where(builds.c.template_id == here)
        self._connection.execute(
            update(replicas).where(replicas.c.build_id.in_(its_builds)).values(state=ReplicaState.DELETING)
        )
        self._connection.execute(template_aliases.delete().where(template_aliases.c.template_id == here))
        self._connection.execute(template_tags.delete().where(template_tags.c.template_id == here))
        self._connection.execute(
            update(templates).where(templates.c.template_id == here).values(deleted_at=now, updated_at=now)
        )

    def public_of(self, team_slug: str) -> list[TemplateRecord]:
        """Return a team's public templates, oldest first."""
        return self._records(
            _SHOWN.where(teams.c.slug == team_slug, templates.c.public).order_by(
                templates.c.created_at, templates.c.template_id
            )
        )

    def page(self, team_id: str, *, after: PagePosition | None, limit: int) -> list[TemplateRecord]:
        """Return the first `limit` templates of a team after a position, newest first."""
        statement = _SHOWN.where(templates.c.team_id == team_id)
        return self._records(
            newest_first(statement, at=templates.c.created_at, key=templates.c.template_id, after=after, limit=limit)
        )

    def records(self, *, team_id: str | None = None, template_id: TemplateId | None = None) -> list[TemplateRecord]:
        """Return templates with all that is shown of one, oldest first; by its id also a snapshot."""
        statement = (_SHOWN if template_id is None else _ANY).order_by(templates.c.created_at, templates.c.template_id)
        if team_id is not None:
            statement = statement.where(templates.c.team_id == team_id)
        if template_id is not None:
            statement = statement.where(templates.c.template_id == template_id)
        return self._records(statement)

    def _records(self, statement: Select[tuple[object, ...]]) -> list[TemplateRecord]:
        rows = self._connection.execute(statement).all()
        ids = [TemplateId(row.template_id) for row in rows]
        if not ids:
            return []
        aliases = self._aliases(ids)
        history = self._builds(ids)
        shown = {one: _newest(history[one]) for one in ids if history[one]}
        nodes = self._nodes([build.build_id for build in shown.values()])
        spawned = self._spawned(ids)
        return [
            TemplateRecord(
                template_id=one,
                team_id=TeamId(row.team_id),
                team_slug=row.slug,
                public=row.public,
                created_at=row.created_at,
                updated_at=row.updated_at,
                aliases=tuple(aliases[one]),
                build=shown[one],
                build_count=len(history[one]),
                nodes=tuple(nodes[shown[one].build_id]),
                spawn_count=spawned.get(one, (0, None))[0],
                last_spawned_at=spawned.get(one, (0, None))[1],
            )
            for row in rows
            if (one := TemplateId(row.template_id)) in shown
        ]

    def _aliases(self, ids: Sequence[TemplateId]) -> dict[TemplateId, list[str]]:
        found: dict[TemplateId, list[str]] = defaultdict(list)
        for template_id, alias in self._connection.execute(
            select(template_aliases.c.template_id, template_aliases.c.alias)
            .where(template_aliases.c.template_id.in_(ids))
            .order_by(template_aliases.c.alias)
        ):
            found[TemplateId(template_id)].append(alias)
        return found

    def _builds(self, ids: Sequence[TemplateId]) -> dict[TemplateId, list[Build]]:
        found: dict[TemplateId, list[Build]] = defaultdict(list)
        for row in self._connection.execute(
            select(builds).where(builds.c.template_id.in_(ids)).order_by(builds.c.created_at)
        ):
            found[TemplateId(row.template_id)].append(read_build(row))
        return found

    def _nodes(self, ids: Sequence[BuildId]) -> dict[BuildId, list[NodeId]]:
        found: dict[BuildId, list[NodeId]] = defaultdict(list)
        for build_id, node_id in self._connection.execute(
            select(replicas.c.build_id, replicas.c.node_id)
            .where(replicas.c.build_id.in_(ids), replicas.c.state == ReplicaState.READY)
            .order_by(replicas.c.node_id)
        ):
            found[BuildId(build_id)].append(NodeId(node_id))
        return found

    def _spawned(self, ids: Sequence[TemplateId]) -> dict[TemplateId, tuple[int, datetime | None]]:
        rows = self._connection.execute(
            select(sandboxes.c.template_id, func.count(), func.max(sandboxes.c.started_at))
            .where(sandboxes.c.template_id.in_(ids))
            .group_by(sandboxes.c.template_id)
        )
        return {TemplateId(template_id): (count, newest) for template_id, count, newest in rows}


def _newest(history: Sequence[Build]) -> Build:
    ready = [build for build in history if build.status is BuildStatus.READY]
    return (ready or history)[-1]
