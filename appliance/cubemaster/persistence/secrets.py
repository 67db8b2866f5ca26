"""Secrets of teams and their versions, sealed before they come here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from appliance.cubemaster.persistence.paging import PagePosition, newest_first
from appliance.cubemaster.persistence.tables import secret_versions, secrets
from appliance.domain.errors import Conflict
from appliance.domain.ids import TeamId


@dataclass(frozen=True, slots=True)
class SecretRecord:
    secret_id: str
    team_id: TeamId
    name: str
    current_version: int
    metadata: Mapping[str, str]
    created_at: datetime
    updated_at: datetime


class SecretRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, secret: SecretRecord) -> None:
        """Add a secret, or raise Conflict where the team has one of that name."""
        try:
            self._connection.execute(
                insert(secrets),
                {
                    "secret_id": secret.secret_id,
                    "team_id": secret.team_id,
                    "name": secret.name,
                    "current_version": secret.current_version,
                    "metadata": dict(secret.metadata),
                    "created_at": secret.created_at,
                    "updated_at": secret.updated_at,
                },
            )
        except IntegrityError as error:
            raise Conflict(f"Secret with name '{secret.name}' already exists") from error

    def find(self, selector: str, *, team_id: str, lock: bool = False) -> SecretRecord | None:
        """Return a team's secret by its id or name, which never look alike."""
        statement = select(secrets).where(
            secrets.c.team_id == team_id, (secrets.c.secret_id == selector) | (secrets.c.name == selector)
        )
        row = self._connection.execute(statement.with_for_update() if lock else statement).one_or_none()
        return _record(row) if row else None

    def page(self, team_id: str, *, after: PagePosition | None, limit: int) -> list[SecretRecord]:
        """Return the first `limit` secrets of a team after a position, newest first."""
        statement = select(secrets).where(secrets.c.team_id == team_id)
        page = newest_first(statement, at=secrets.c.created_at, key=secrets.c.secret_id, after=after, limit=limit)
        return [_record(row) for row in self._connection.execute(page)]

    def count(self, team_id: str) -> int:
        statement = select(func.count()).select_from(secrets).where(secrets.c.team_id == team_id)
        return self._connection.scalar(statement) or 0

    def add_version(self, secret_id: str, version: int, sealed: bytes, *, now: datetime) -> None:
        self._connection.execute(
            insert(secret_versions),
            {"secret_id": secret_id, "version": version, "sealed": sealed, "created_at": now},
        )

    def sealed(self, secret_id: str, version: int) -> bytes | None:
        return self._connection.scalar(
            select(secret_versions.c.sealed).where(
                secret_versions.c.secret_id == secret_id, secret_versions.c.version == version
            )
        )

    def named(self, names: Collection[str], *, team_id: str) -> dict[str, tuple[str, int, bytes]]:
        """Return id, version and sealed value of the newest version of each secret of a team that there is."""
        rows = self._connection.execute(
            select(secrets.c.name, secrets.c.secret_id, secret_versions.c.version, secret_versions.c.sealed)
            .join(
                secret_versions,
                (secret_versions.c.secret_id == secrets.c.secret_id)
                & (secret_versions.c.version == secrets.c.current_version),
            )
            .where(secrets.c.team_id == team_id, secrets.c.name.in_(names))
        )
        return {row.name: (row.secret_id, row.version, row.sealed) for row in rows}

    def missing(self, names: Sequence[str], *, team_id: str) -> list[str]:
        """Return those of `names` that no secret of the team has."""
        if not names:
            return []
        there = set(
            self._connection.scalars(
                select(secrets.c.name).where(secrets.c.team_id == team_id, secrets.c.name.in_(names))
            )
        )
        return [name for name in names if name not in there]

    def forget_versions(self, secret_id: str, *, up_to: int) -> None:
        self._connection.execute(
            delete(secret_versions).where(secret_versions.c.secret_id == secret_id, secret_versions.c.version <= up_to)
        )

    def save(self, secret: SecretRecord) -> None:
        self._connection.execute(
            update(secrets)
            .where(secrets.c.secret_id == secret.secret_id)
            .values(
                current_version=secret.current_version,
                metadata=dict(secret.metadata),
                updated_at=secret.updated_at,
            )
        )

    def remove(self, secret_id: str) -> None:
        self._connection.execute(delete(secret_versions).where(secret_versions.c.secret_id == secret_id))
        self._connection.execute(delete(secrets).where(secrets.c.secret_id == secret_id))


def _record(row: Row[*tuple[Any, ...]]) -> SecretRecord:
    return SecretRecord(
        secret_id=row.secret_id,
        team_id=TeamId(row.team_id),
        name=row.name,
        current_version=row.current_version,
        metadata=row.metadata,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
