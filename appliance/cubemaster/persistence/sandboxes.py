"""Sandbox rows. A row changes only from the state its reader saw, so two writers never both win."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ColumnElement, Connection, Row, and_, bindparam, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from appliance.cubemaster.persistence.tables import sandboxes
from appliance.domain.ids import BuildId, NodeId, SandboxId, TeamId, TemplateId, VolumeId
from appliance.domain.network import SandboxNetwork
from appliance.domain.placement import Resources
from appliance.domain.sandbox import (
    AWAKE,
    CONCURRENT,
    LIVE,
    End,
    EndReason,
    KeptRules,
    OnTimeout,
    Sandbox,
    SandboxState,
)
from appliance.domain.volume import Mount

_DUPLICATE_KEY = 1062
# Sealed rules may be long, and few need them: they are read where they are opened.
_COLUMNS = (
    *(column for column in sandboxes.c if column is not sandboxes.c.sealed_rules),
    sandboxes.c.sealed_rules.is_not(None).label("has_sealed_rules"),
)


class DuplicateIdempotencyKey(Exception):
    """The team already has a sandbox of this key."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the order is by start, then id."""

    started_at: datetime
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class SandboxFilter:
    states: Collection[SandboxState]
    team_id: TeamId | None = None
    template_id: TemplateId | None = None
    metadata: Mapping[str, str] | None = None
    """All of these must match."""
    started_after: datetime | None = None
    """Inclusive."""


class SandboxRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, sandbox: Sandbox, *, sealed_rules: bytes | None, idempotency_key: str | None) -> None:
        try:
            self._connection.execute(
                insert(sandboxes),
                {
                    "sandbox_id": sandbox.sandbox_id,
                    "team_id": sandbox.team_id,
                    "template_id": sandbox.template_id,
                    "build_id": sandbox.build_id,
                    "alias": sandbox.alias,
                    "node_id": sandbox.node_id,
                    "state": sandbox.state,
                    "vcpus": sandbox.resources.vcpus,
                    "memory_mib": sandbox.resources.memory_mib,
                    "disk_size_mib": sandbox.disk_size_mib,
                    "envd_version": sandbox.envd_version,
                    "secure": sandbox.secure,
                    "metadata": dict(sandbox.metadata),
                    **_rules(sandbox, sealed_rules),
                    "workload_tokens": dict(sandbox.workload_tokens),
                    "volumes": [asdict(one) for one in sandbox.volumes],
                    "on_timeout": sandbox.on_timeout,
                    "auto_resume": sandbox.auto_resume,
                    "generation": sandbox.generation,
                    "paused_at": sandbox.paused_at,
                    "filesystem_only": sandbox.filesystem_only,
                    "changing_since": sandbox.changing_since,
                    "idempotency_key": idempotency_key,
                    "started_at": sandbox.started_at,
                    "end_at": sandbox.end_at,
                },
            )
        except IntegrityError as error:
            if error.orig is not None and error.orig.args[0] == _DUPLICATE_KEY and idempotency_key:
                raise DuplicateIdempotencyKey from error
            raise

    def move(self, sandbox_id: SandboxId, node_id: NodeId) -> None:
        """Try another node for a sandbox that this transaction has added."""
        self._connection.execute(update(sandboxes).where(sandboxes.c.sandbox_id == sandbox_id).values(node_id=node_id))

    def find(self, sandbox_id: str, *, team_id: str | None = None, lock: bool = False) -> Sandbox | None:
        """Return the sandbox in whatever state, unless it belongs to another team than `team_id`."""
        statement = select(*_COLUMNS).where(sandboxes.c.sandbox_id == sandbox_id)
        if team_id is not None:
            statement = statement.where(sandboxes.c.team_id == team_id)
        if lock:
            statement = statement.with_for_update()
        row = self._connection.execute(statement).one_or_none()
        return _sandbox(row) if row else None

    def find_several(self, sandbox_ids: Collection[str], *, team_id: str | None) -> list[Sandbox]:
        statement = select(*_COLUMNS).where(sandboxes.c.sandbox_id.in_(sandbox_ids))
        if team_id is not None:
            statement = statement.where(sandboxes.c.team_id == team_id)
        return [_sandbox(row) for row in self._connection.execute(statement)]

    def find_by_idempotency_key(self, team_id: str, key: str) -> Sandbox | None:
        row = self._connection.execute(
            select(*_COLUMNS).where(sandboxes.c.team_id == team_id, sandboxes.c.idempotency_key == key)
        ).one_or_none()
        return _sandbox(row) if row else None

    def save(self, sandbox: Sandbox, *, was: SandboxState) -> bool:
        """Write what may change in a life; return False if the row has left the state it was seen in.

        Network rules are for `save_rules`; those that may hold credentials go with the end.
        """
        values: dict[str, object] = {
            "state": sandbox.state,
            "address": sandbox.address,
            "envd_version": sandbox.envd_version,
            "started_at": sandbox.started_at,
            "end_at": sandbox.end_at,
            "on_timeout": sandbox.on_timeout,
            "auto_resume": sandbox.auto_resume,
            "generation": sandbox.generation,
            "paused_at": sandbox.paused_at,
            "filesystem_only": sandbox.filesystem_only,
            "changing_since": sandbox.changing_since,
        }
        if sandbox.end:
            values |= {
                "end_reason": sandbox.end.reason,
                "end_detail": sandbox.end.detail,
                "ended_at": sandbox.end.at,
                "sealed_rules": None,
                "rule_secrets": [],
                "tokens_due_at": None,
            }
            if sandbox.end.reason is EndReason.FAILED_START:
                # The caller never got a sandbox for its key: its retry must be able to.
                values["idempotency_key"] = None
        result = self._connection.execute(
            update(sandboxes)
            .where(sandboxes.c.sandbox_id == sandbox.sandbox_id, sandboxes.c.state == was)
            .values(values)
        )
        return result.rowcount == 1

    def save_rules(self, sandbox: Sandbox, *, sealed_rules: bytes | None) -> None:
        """Write its network rules, under the name they have now. The row is locked by this transaction."""
        self._connection.execute(
            update(sandboxes).where(sandboxes.c.sandbox_id == sandbox.sandbox_id).values(_rules(sandbox, sealed_rules))
        )

    def find_with_rules(self, sandbox_id: SandboxId) -> tuple[Sandbox, bytes | None] | None:
        """Return the sandbox, and with it, as they were at one time, its sealed rules."""
        statement = select(*_COLUMNS).add_columns(sandboxes.c.sealed_rules).where(sandboxes.c.sandbox_id == sandbox_id)
        row = self._connection.execute(statement).one_or_none()
        return (_sandbox(row), row.sealed_rules) if row else None

    def rename_rules_with(self, secret: str, *, team_id: str, revision: str) -> None:
        """Give another name to the network rules of the team's live sandboxes that use the secret of that name."""
        wanted = bindparam("secret", [secret], type_=JSON)
        self._connection.execute(
            update(sandboxes)
            .where(
                sandboxes.c.team_id == team_id,
                sandboxes.c.state.in_(LIVE),
                func.json_contains(sandboxes.c.rule_secrets, wanted) == 1,
            )
            .values(network_revision=revision)
        )

    def renew_tokens(self, *, now: datetime, due_again_at: datetime, revision: str, limit: int) -> int:
        """Give another name to the network rules of up to `limit` sandboxes whose tokens are due; return how many."""
        result = self._connection.execute(
            update(sandboxes)
            .where(sandboxes.c.tokens_due_at <= now, sandboxes.c.state.in_(AWAKE))
            .values(network_revision=revision, tokens_due_at=due_again_at)
            .with_dialect_options(mysql_limit=limit)
        )
        return result.rowcount

    def live_on(self, node_id: NodeId) -> list[Sandbox]:
        rows = self._connection.execute(
            select(*_COLUMNS).where(sandboxes.c.node_id == node_id, sandboxes.c.state.in_(LIVE))
        )
        return [_sandbox(row) for row in rows]

    def in_state(self, *states: SandboxState) -> list[Sandbox]:
        rows = self._connection.execute(select(*_COLUMNS).where(sandboxes.c.state.in_(states)))
        return [_sandbox(row) for row in rows]

    def live_states_of_template(self, template_id: str, *, build_id: BuildId | None = None) -> frozenset[SandboxState]:
        """Return the states in which sandboxes of a template, or of one build of it, are live."""
        statement = select(sandboxes.c.state).where(sandboxes.c.template_id == template_id, sandboxes.c.state.in_(LIVE))
        if build_id is not None:
            statement = statement.where(sandboxes.c.build_id == build_id)
        found = self._connection.scalars(statement.distinct())
        return frozenset(SandboxState(state) for state in found)

    def concurrent_count(self, team_id: TeamId) -> int:
        return self._count(sandboxes.c.team_id == team_id, sandboxes.c.state.in_(CONCURRENT))

    def running_count(self, team_id: str | None) -> int:
        mine = (sandboxes.c.team_id == team_id,) if team_id is not None else ()
        return self._count(sandboxes.c.state.in_(AWAKE), *mine)

    def page(self, where: SandboxFilter, *, after: Position | None, ascending: bool, limit: int) -> list[Sandbox]:
        """Return the first `limit` matches after a position, by start and id.

        One query a state: each reads its rows in the order of an index and stops, where `state IN (...)` would sort
        all of the team's.
        """
        columns = sandboxes.c
        conditions: list[ColumnElement[bool]] = []
        if where.team_id is not None:
            conditions.append(columns.team_id == where.team_id)
        if where.template_id is not None:
            conditions.append(columns.template_id == where.template_id)
        if where.started_after is not None:
            conditions.append(columns.started_at >= where.started_after)
        if where.metadata:
            wanted = bindparam("metadata", dict(where.metadata), type_=JSON)
            conditions.append(func.json_contains(columns.metadata, wanted) == 1)
        if after is not None:
            same_start = columns.started_at == after.started_at
            conditions.append(
                or_(columns.started_at > after.started_at, and_(same_start, columns.sandbox_id > after.sandbox_id))
                if ascending
                else or_(columns.started_at < after.started_at, and_(same_start, columns.sandbox_id < after.sandbox_id))
            )
        order = (
            (columns.started_at.asc(), columns.sandbox_id.asc())
            if ascending
            else (columns.started_at.desc(), columns.sandbox_id.desc())
        )
        found = [
            row
            for state in where.states
            for row in self._connection.execute(
                select(*_COLUMNS).where(columns.state == state, *conditions).order_by(*order).limit(limit)
            )
        ]
        found.sort(key=lambda row: (row.started_at, row.sandbox_id), reverse=not ascending)
        return [_sandbox(row) for row in found[:limit]]

    def _count(self, *conditions: ColumnElement[bool]) -> int:
        statement = select(func.count()).select_from(sandboxes).where(*conditions)
        return self._connection.scalar(statement) or 0


def _sandbox(row: Row[tuple[object, ...]]) -> Sandbox:
    return Sandbox(
        sandbox_id=SandboxId(row.sandbox_id),
        team_id=TeamId(row.team_id),
        template_id=TemplateId(row.template_id),
        build_id=BuildId(row.build_id),
        alias=row.alias,
        node_id=NodeId(row.node_id),
        state=SandboxState(row.state),
        resources=Resources(row.vcpus, row.memory_mib),
        disk_size_mib=row.disk_size_mib,
        envd_version=row.envd_version,
        secure=row.secure,
        started_at=row.started_at,
        end_at=row.end_at,
        metadata=row.metadata,
        network=_network(row.network),
        rules=KeptRules(
            revision=row.network_revision,
            sealed=row.has_sealed_rules,
            secrets=tuple(row.rule_secrets),
            tokens_due_at=row.tokens_due_at,
        ),
        workload_tokens=row.workload_tokens,
        volumes=tuple(Mount(VolumeId(one["volume_id"]), one["name"], one["path"]) for one in row.volumes),
        on_timeout=OnTimeout(row.on_timeout),
        auto_resume=row.auto_resume,
        generation=row.generation,
        paused_at=row.paused_at,
        filesystem_only=row.filesystem_only,
        changing_since=row.changing_since,
        address=row.address,
        end=End(EndReason(row.end_reason), row.end_detail or "", row.ended_at) if row.end_reason else None,
    )


def _rules(sandbox: Sandbox, sealed: bytes | None) -> dict[str, object]:
    rules = sandbox.rules
    return {
        "network": asdict(sandbox.network),
        "network_revision": rules.revision,
        "sealed_rules": sealed,
        "rule_secrets": list(rules.secrets),
        "tokens_due_at": rules.tokens_due_at,
    }


def _network(stored: Mapping[str, Any]) -> SandboxNetwork:
    # A newer release may have stored more rules; the older one keeps running after a rollback.
    known = {one.name for one in fields(SandboxNetwork)} & stored.keys()
    rules: dict[str, Any] = {
        name: tuple(stored[name]) if isinstance(stored[name], list) else stored[name] for name in known
    }
    return SandboxNetwork(**rules)
