"""Events: what happened to a sandbox or node, in order, for whoever asks later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, insert

from appliance.cubemaster.persistence.tables import events


class EventRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        kind: str,
        *,
        at: datetime,
        team_id: str | None = None,
        sandbox_id: str | None = None,
        node_id: str | None = None,
        detail: Mapping[str, str] | None = None,
    ) -> None:
        self._connection.execute(
            insert(events),
            {
                "at": at,
                "kind": kind,
                "team_id": team_id,
                "sandbox_id": sandbox_id,
                "node_id": node_id,
                "detail": dict(detail or {}),
            },
        )
