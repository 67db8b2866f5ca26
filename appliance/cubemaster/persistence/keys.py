"""Teams and their API keys. Only a key's SHA-256 is stored."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, insert, or_, select, update
from sqlalchemy.dialects.mysql import insert as mysql_insert

from appliance.cubemaster.persistence.tables import UtcDateTime, api_keys, teams
from appliance.domain.access import Scope
from appliance.domain.ids import TeamId


@dataclass(frozen=True, slots=True)
class KeyRecord:
    key_id: str
    team_id: TeamId
    team_slug: str
    name: str
    mask: str
    scopes: frozenset[Scope] | None
    """None: everything."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


_KEY_COLUMNS = (
    api_keys.c.key_id,
    api_keys.c.team_id,
    teams.c.slug.label("team_slug"),
    api_keys.c.name,
    api_keys.c.mask,
    api_keys.c.scopes,
    api_keys.c.created_at,
    api_keys.c.expires_at,
    api_keys.c.last_used_at,
)
_standing_keys = (
    select(*_KEY_COLUMNS).join(teams, teams.c.team_id == api_keys.c.team_id).where(api_keys.c.revoked_at.is_(None))
)
# Each key is looked up about twice a second while it is used: built once.
_BY_DIGEST = _standing_keys.where(
    api_keys.c.sha256 == bindparam("digest"),
    or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > bindparam("now", type_=UtcDateTime)),
)


class KeyRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def team(self, slug: str, *, now: datetime) -> TeamId:
        """Return the team of that slug, made if there is none."""
        found = self._connection.scalar(select(teams.c.team_id).where(teams.c.slug == slug))
        if found is None:
            # IGNORE: another call may make it at the same moment; either row is the team.
            self._connection.execute(
                mysql_insert(teams).prefix_with("IGNORE"),
                {"team_id": str(uuid.uuid4()), "slug": slug, "created_at": now},
            )
            found = self._connection.scalar(select(teams.c.team_id).where(teams.c.slug == slug))
        return TeamId(str(found))

    def slug(self, team_id: TeamId) -> str:
        """Return the slug of a team that there is."""
        return str(self._connection.execute(select(teams.c.slug).where(teams.c.team_id == team_id)).scalar_one())

    def lock_team(self, team_id: TeamId) -> None:
        """Let no other transaction that locks this team go on until this one ends.

        Before a row that refers to the team is added: that takes a shared lock, which two could not both exchange for
        this one.
        """
        self._connection.execute(select(teams.c.team_id).where(teams.c.team_id == team_id).with_for_update())

    def add(self, key: KeyRecord, *, sha256: str) -> None:
        self._connection.execute(
            insert(api_keys),
            {
                "key_id": key.key_id,
                "team_id": key.team_id,
                "name": key.name,
                "sha256": sha256,
                "mask": key.mask,
                "scopes": None if key.scopes is None else sorted(key.scopes),
                "created_at": key.created_at,
                "expires_at": key.expires_at,
            },
        )

    def find(self, sha256: str, *, now: datetime) -> KeyRecord | None:
        """Return the key with that digest, unless it was revoked or has expired."""
        row = self._connection.execute(_BY_DIGEST, {"digest": sha256, "now": now}).one_or_none()
        return _record(row) if row else None

    def get(self, key_id: str, *, team_id: str | None) -> KeyRecord | None:
        """Return a key that was not revoked; of the team, where one is given."""
        row = self._connection.execute(_standing_keys.where(*_is(key_id, team_id))).one_or_none()
        return _record(row) if row else None

    def all(self, *, team_id: str | None = None) -> list[KeyRecord]:
        """Return the keys that were not revoked, expired ones included."""
        statement = _standing_keys if team_id is None else _standing_keys.where(api_keys.c.team_id == team_id)
        rows = self._connection.execute(statement.order_by(api_keys.c.created_at, api_keys.c.key_id))
        return [_record(row) for row in rows]

    def count(self, team_id: TeamId) -> int:
        statement = select(func.count()).select_from(api_keys)
        return self._connection.scalar(statement.where(api_keys.c.team_id == team_id, _NOT_REVOKED)) or 0

    def used(self, uses: Mapping[str, datetime]) -> None:
        """Note when keys were used last."""
        self._connection.execute(
            update(api_keys).where(api_keys.c.key_id == bindparam("key")).values(last_used_at=bindparam("at")),
            [{"key": key_id, "at": at} for key_id, at in uses.items()],
        )

    def rename(self, key_id: str, name: str, *, team_id: str | None) -> None:
        self._connection.execute(update(api_keys).where(*_is(key_id, team_id), _NOT_REVOKED).values(name=name))

    def revoke(self, key_id: str, *, team_id: str | None, at: datetime) -> bool:
        """Return whether there was such a key that was not revoked yet."""
        result = self._connection.execute(
            update(api_keys).where(*_is(key_id, team_id), _NOT_REVOKED).values(revoked_at=at)
        )
        return result.rowcount == 1


_NOT_REVOKED = api_keys.c.revoked_at.is_(None)


def _is(key_id: str, team_id: str | None) -> tuple[ColumnElement[bool], ...]:
    mine = () if team_id is None else (api_keys.c.team_id == team_id,)
    return (api_keys.c.key_id == key_id, *mine)


def _record(row: Row[*tuple[Any, ...]]) -> KeyRecord:
    # A newer release may have stored scopes that this one does not know, and which it serves nothing for.
    known = None if row.scopes is None else frozenset(Scope(one) for one in row.scopes if one in set(Scope))
    return KeyRecord(
        key_id=row.key_id,
        team_id=TeamId(row.team_id),
        team_slug=row.team_slug,
        name=row.name,
        mask=row.mask,
        scopes=known,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
