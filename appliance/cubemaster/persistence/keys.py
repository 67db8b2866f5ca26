"""Teams and their API keys. Only a key's SHA-256 is stored."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.mysql import insert as mysql_insert

from appliance.cubemaster.persistence.tables import api_keys, teams
from appliance.domain.ids import TeamId


@dataclass(frozen=True, slots=True)
class KeyRecord:
    key_id: str
    team_id: TeamId
    team_slug: str
    name: str
    mask: str
    created_at: datetime
    last_used_at: datetime | None


_KEY_COLUMNS = (
    api_keys.c.key_id,
    api_keys.c.team_id,
    teams.c.slug.label("team_slug"),
    api_keys.c.name,
    api_keys.c.mask,
    api_keys.c.created_at,
    api_keys.c.last_used_at,
)
_valid_keys = (
    select(*_KEY_COLUMNS).join(teams, teams.c.team_id == api_keys.c.team_id).where(api_keys.c.revoked_at.is_(None))
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
                "created_at": key.created_at,
            },
        )

    def find(self, sha256: str) -> KeyRecord | None:
        """Return the key with that digest, unless it was revoked."""
        row = self._connection.execute(_valid_keys.where(api_keys.c.sha256 == sha256)).one_or_none()
        return KeyRecord(*row) if row else None

    def all(self) -> list[KeyRecord]:
        rows = self._connection.execute(_valid_keys.order_by(api_keys.c.created_at, api_keys.c.key_id))
        return [KeyRecord(*row) for row in rows]

    def used(self, key_id: str, *, at: datetime) -> None:
        self._connection.execute(update(api_keys).where(api_keys.c.key_id == key_id).values(last_used_at=at))

    def revoke(self, key_id: str, *, at: datetime) -> bool:
        """Return whether there was such a key that was still valid."""
        result = self._connection.execute(
            update(api_keys).where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=at)
        )
        return result.rowcount == 1
