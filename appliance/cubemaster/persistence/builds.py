"""Builds: the request, its lease, its replicas on nodes, and its log."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, exists, func, insert, or_, select, update
from sqlalchemy.dialects.mysql import insert as mysql_insert

from appliance.cubemaster.persistence.build_rows import login_columns, read_build, spec_columns, steps_column
from appliance.cubemaster.persistence.paging import PagePosition, newest_first
from appliance.cubemaster.persistence.tables import build_logs, builds, replicas, template_files, templates
from appliance.domain.ids import BuildId, NodeId, TeamId, TemplateId
from appliance.domain.template import Build, BuildStatus, Replica, ReplicaState

_LOG = select(build_logs.c.at, build_logs.c.level, build_logs.c.message, build_logs.c.step)
_ACTIVE = (BuildStatus.WAITING, BuildStatus.BUILDING)


@dataclass(frozen=True, slots=True)
class LogEntry:
    at: datetime
    level: str
    message: str
    step: str | None = None


@dataclass(frozen=True, slots=True)
class HeldReplica:
    state: ReplicaState
    pooled: int


@dataclass(frozen=True, slots=True)
class HeldBuild:
    """A build on a node, with what the node needs to remove it."""

    node_id: NodeId
    template_id: TemplateId
    build_id: BuildId


class BuildRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, build: Build) -> None:
        self._connection.execute(
            insert(builds),
            {
                "build_id": build.build_id,
                "template_id": build.template_id,
                "tags": list(build.tags),
                "status": build.status,
                "disk_size_mib": build.disk_size_mib,
                "envd_version": build.envd_version,
                "source_sandbox_id": build.source_sandbox_id,
                "created_at": build.created_at,
                "started_at": build.started_at,
                **spec_columns(build.spec),
            },
        )

    def start(self, build: Build) -> bool:
        """Write what a draft shall become; return False where it is none any more."""
        result = self._connection.execute(
            update(builds)
            .where(builds.c.build_id == build.build_id, builds.c.status == BuildStatus.WAITING)
            .values(status=build.status, started_at=build.started_at, **spec_columns(build.spec))
        )
        return result.rowcount == 1

    def find(self, build_id: str) -> Build | None:
        row = self._connection.execute(select(builds).where(builds.c.build_id == build_id)).one_or_none()
        return read_build(row) if row else None

    def newest(self, template_id: TemplateId, *, tag: str) -> Build | None:
        """Return the newest build meant for that tag, however it went."""
        row = self._connection.execute(
            select(builds)
            .where(builds.c.template_id == template_id, func.json_contains(builds.c.tags, json.dumps(tag)))
            .order_by(builds.c.created_at.desc())
            .limit(1)
        ).one_or_none()
        return read_build(row) if row else None

    def of_template(self, template_id: TemplateId) -> list[Build]:
        rows = self._connection.execute(select(builds).where(builds.c.template_id == template_id))
        return [read_build(row) for row in rows]

    def page(self, template_id: TemplateId, *, after: PagePosition | None, limit: int) -> list[Build]:
        """Return the first `limit` builds after a position, newest first."""
        statement = select(builds).where(builds.c.template_id == template_id)
        page = newest_first(statement, at=builds.c.created_at, key=builds.c.build_id, after=after, limit=limit)
        return [read_build(row) for row in self._connection.execute(page)]

    def stale_drafts(self, *, before: datetime) -> list[BuildId]:
        """Return drafts that were asked for before that time, and for which no file came since then."""
        fed = exists().where(template_files.c.template_id == builds.c.template_id, template_files.c.used_at >= before)
        rows = self._connection.scalars(
            select(builds.c.build_id)
            .where(builds.c.status == BuildStatus.WAITING, builds.c.created_at < before, ~fed)
            # A draft that is being started has been started when this gets its row, and is no longer found.
            .with_for_update(skip_locked=True)
        )
        return [BuildId(one) for one in rows]

    def draft_count(self, team_id: TeamId) -> int:
        statement = (
            select(func.count())
            .select_from(builds.join(templates, templates.c.template_id == builds.c.template_id))
            .where(templates.c.team_id == team_id, builds.c.status == BuildStatus.WAITING)
        )
        return self._connection.scalar(statement) or 0

    # Leases: whoever holds one works on the build outside any transaction; only its token may write the result.

    def lease(self, *, token: str, now: datetime, until: datetime, limit: int) -> list[Build]:
        """Take up to `limit` builds that were started, have not ended, and that nobody works on."""
        rows = self._connection.execute(
            select(builds)
            .where(
                builds.c.status == BuildStatus.BUILDING,
                # What is taken of a sandbox is the business of whoever takes it.
                builds.c.source_sandbox_id.is_(None),
                or_(builds.c.lease_until.is_(None), builds.c.lease_until < now),
            )
            .order_by(builds.c.created_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        if rows:
            self._connection.execute(
                update(builds)
                .where(builds.c.build_id.in_([row.build_id for row in rows]))
                .values(lease_token=token, lease_until=until)
            )
        return [read_build(row) for row in rows]

    def give_back(self, *, token: str) -> None:
        """End all leases of a token, with nothing done."""
        self._connection.execute(
            update(builds).where(builds.c.lease_token == token).values(lease_token=None, lease_until=None)
        )

    def save(self, build: Build, *, token: str) -> bool:
        """Write how far it is and give the lease back; return False if the lease went to somebody else."""
        result = self._connection.execute(
            update(builds)
            .where(builds.c.build_id == build.build_id, builds.c.lease_token == token)
            .values(
                status=build.status,
                reason=build.reason,
                step=build.step,
                disk_size_mib=build.disk_size_mib,
                envd_version=build.envd_version,
                finished_at=build.finished_at,
                **login_columns(build.spec.registry_login),
                steps=steps_column(build.spec.steps),
                lease_token=None,
                lease_until=None,
            )
        )
        return result.rowcount == 1

    def finish_capture(self, build: Build) -> bool:
        """Write that a build was taken of its sandbox; return False if it was cancelled meanwhile."""
        result = self._connection.execute(
            update(builds)
            .where(builds.c.build_id == build.build_id, builds.c.status == BuildStatus.BUILDING)
            .values(
                status=build.status,
                disk_size_mib=build.disk_size_mib,
                envd_version=build.envd_version,
                finished_at=build.finished_at,
            )
        )
        return result.rowcount == 1

    def captures_before(self, at: datetime) -> list[Build]:
        """Return what was begun to be taken of sandboxes before a time, and is not finished."""
        rows = self._connection.execute(
            select(builds).where(
                builds.c.status == BuildStatus.BUILDING,
                builds.c.source_sandbox_id.is_not(None),
                builds.c.created_at < at,
            )
        )
        return [read_build(row) for row in rows]

    def cancel(self, build_id: BuildId, *, reason: str, now: datetime) -> None:
        """End an unfinished build and take it from whoever works on it."""
        self._connection.execute(
            update(builds)
            .where(builds.c.build_id == build_id, builds.c.status.in_(_ACTIVE))
            .values(
                status=BuildStatus.ERROR,
                reason=reason,
                finished_at=now,
                **login_columns(None),
                steps=None,
                lease_token=None,
                lease_until=None,
            )
        )

    # Log

    def append_log(self, build_id: BuildId, entries: Sequence[LogEntry]) -> None:
        """Add entries at the end. The caller has written the build's row in this transaction, which orders writers."""
        if not entries:
            return
        last = self._connection.scalar(select(func.max(build_logs.c.seq)).where(build_logs.c.build_id == build_id))
        first = 0 if last is None else last + 1
        self._connection.execute(
            insert(build_logs),
            [
                {
                    "build_id": build_id,
                    "seq": first + index,
                    "at": entry.at,
                    "level": entry.level,
                    "message": entry.message,
                    "step": entry.step,
                }
                for index, entry in enumerate(entries)
            ],
        )

    def log(self, build_id: str, *, offset: int, limit: int, levels: Collection[str] | None = None) -> list[LogEntry]:
        """Return the entries after the first `offset`, of those `levels` alone where they are given."""
        statement = _LOG.where(build_logs.c.build_id == build_id).order_by(build_logs.c.seq).limit(limit)
        if levels is None:
            # Entries are numbered without a gap: this finds the first by the key, where OFFSET counts up to it.
            statement = statement.where(build_logs.c.seq >= offset)
        else:
            statement = statement.where(build_logs.c.level.in_(levels)).offset(offset)
        return [LogEntry(*row) for row in self._connection.execute(statement)]

    def log_of_step(self, build_id: str, step: str, *, limit: int) -> list[LogEntry]:
        """Return the last entries of one step, oldest first."""
        statement = _LOG.where(build_logs.c.build_id == build_id, build_logs.c.step == step)
        rows = self._connection.execute(statement.order_by(build_logs.c.seq.desc()).limit(limit)).all()
        return [LogEntry(*row) for row in reversed(rows)]

    def log_around(
        self, build_id: str, *, at: datetime | None, backward: bool, limit: int, levels: Collection[str] | None
    ) -> list[LogEntry]:
        """Return entries from `at` on, oldest first; or `backward`, from `at` into the past, newest first."""
        statement = _LOG.where(build_logs.c.build_id == build_id).limit(limit)
        if levels is not None:
            statement = statement.where(build_logs.c.level.in_(levels))
        if at is not None:
            statement = statement.where(build_logs.c.at <= at if backward else build_logs.c.at >= at)
        order = (build_logs.c.at.desc(), build_logs.c.seq.desc()) if backward else (build_logs.c.at, build_logs.c.seq)
        return [LogEntry(*row) for row in self._connection.execute(statement.order_by(*order))]

    # Replicas

    def replicas(self, build_id: BuildId) -> list[Replica]:
        rows = self._connection.execute(
            select(replicas).where(replicas.c.build_id == build_id).order_by(replicas.c.node_id)
        )
        return [
            Replica(
                node_id=NodeId(row.node_id),
                build_id=BuildId(row.build_id),
                state=ReplicaState(row.state),
                log_offset=row.log_offset,
                attempt=row.attempt,
                reason=row.reason,
                step=row.step,
            )
            for row in rows
        ]

    def put_replica(self, replica: Replica) -> None:
        values = {
            "state": replica.state,
            "log_offset": replica.log_offset,
            "attempt": replica.attempt,
            "reason": replica.reason,
            "step": replica.step,
        }
        self._connection.execute(
            mysql_insert(replicas)
            .values(build_id=replica.build_id, node_id=replica.node_id, pooled=0, **values)
            .on_duplicate_key_update(**values)
        )

    def held_by(self, node_id: NodeId) -> dict[BuildId, HeldReplica]:
        rows = self._connection.execute(
            select(replicas.c.build_id, replicas.c.state, replicas.c.pooled).where(replicas.c.node_id == node_id)
        )
        return {BuildId(build): HeldReplica(ReplicaState(state), pooled) for build, state, pooled in rows}

    def is_usable(self, build_id: str) -> bool:
        """Return whether the build is READY and its template was not deleted."""
        found = self._connection.scalar(
            select(builds.c.build_id)
            .join(templates, templates.c.template_id == builds.c.template_id)
            .where(
                builds.c.build_id == build_id,
                builds.c.status == BuildStatus.READY,
                templates.c.deleted_at.is_(None),
            )
        )
        return found is not None

    def set_pooled(self, node_id: NodeId, build_id: BuildId, pooled: int) -> None:
        self._connection.execute(
            update(replicas).where(replicas.c.node_id == node_id, replicas.c.build_id == build_id).values(pooled=pooled)
        )

    def remove_replica(self, node_id: NodeId, build_id: BuildId) -> None:
        self._connection.execute(delete(replicas).where(replicas.c.node_id == node_id, replicas.c.build_id == build_id))

    def discard_replicas(self, build_id: BuildId) -> None:
        """Let nodes free what they hold of a build that was given up."""
        self._connection.execute(
            update(replicas).where(replicas.c.build_id == build_id).values(state=ReplicaState.DELETING)
        )

    def of_deleted_templates(self) -> list[HeldBuild]:
        """Return what nodes still hold of templates that were deleted, and of builds that were given up."""
        rows = self._connection.execute(
            select(replicas.c.node_id, builds.c.template_id, replicas.c.build_id)
            .join(builds, builds.c.build_id == replicas.c.build_id)
            .join(templates, templates.c.template_id == builds.c.template_id)
            .where(or_(templates.c.deleted_at.is_not(None), replicas.c.state == ReplicaState.DELETING))
        )
        return [HeldBuild(NodeId(node), TemplateId(template), BuildId(build)) for node, template, build in rows]
