"""Archives of COPY steps: who has which, how large, and when it was used last. The bytes are files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, or_, select, update
from sqlalchemy.dialects.mysql import insert as mysql_insert

from appliance.cubemaster.persistence.tables import builds, template_files, templates
from appliance.domain.ids import TeamId, TemplateId
from appliance.domain.template import BuildStatus


@dataclass(frozen=True, slots=True)
class FileKey:
    team_id: TeamId
    files_hash: str


class TemplateFileRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, key: FileKey, *, template_id: TemplateId, size_bytes: int, now: datetime) -> None:
        values = {"template_id": template_id, "size_bytes": size_bytes, "used_at": now}
        self._connection.execute(
            mysql_insert(template_files)
            .values(team_id=key.team_id, files_hash=key.files_hash, **values)
            .on_duplicate_key_update(**values)
        )

    def use(self, team_id: str, hashes: Collection[str], *, template_id: TemplateId, now: datetime) -> frozenset[str]:
        """Take note that a template needs them, and return those that there are."""
        mine = and_(template_files.c.team_id == team_id, template_files.c.files_hash.in_(hashes))
        self._connection.execute(update(template_files).where(mine).values(template_id=template_id, used_at=now))
        return frozenset(self._connection.scalars(select(template_files.c.files_hash).where(mine)))

    def bytes_of(self, team_id: str) -> int:
        total = self._connection.scalar(
            select(func.sum(template_files.c.size_bytes)).where(template_files.c.team_id == team_id)
        )
        return int(total or 0)

    def unneeded(self, *, unused_since: datetime, deleted_since: datetime) -> list[FileKey]:
        """Return files that were not used since a time, or since another one and whose template is gone.

        Not those that a running build has yet to fetch.
        """
        rows = self._connection.execute(
            select(template_files.c.team_id, template_files.c.files_hash)
            .join(templates, templates.c.template_id == template_files.c.template_id)
            .where(
                or_(
                    template_files.c.used_at < unused_since,
                    and_(template_files.c.used_at < deleted_since, templates.c.deleted_at.is_not(None)),
                )
            )
        ).all()
        if not rows:
            return []
        needed = self._needed()
        return [FileKey(TeamId(team), one) for team, one in rows if one not in needed]

    def remove(self, key: FileKey) -> None:
        self._connection.execute(
            delete(template_files).where(
                template_files.c.team_id == key.team_id, template_files.c.files_hash == key.files_hash
            )
        )

    def keys(self) -> frozenset[FileKey]:
        rows = self._connection.execute(select(template_files.c.team_id, template_files.c.files_hash))
        return frozenset(FileKey(TeamId(team), one) for team, one in rows)

    def _needed(self) -> frozenset[str]:
        columns = self._connection.scalars(select(builds.c.steps).where(builds.c.status == BuildStatus.BUILDING))
        return frozenset(step["files_hash"] for steps in columns for step in steps or () if step["files_hash"])
