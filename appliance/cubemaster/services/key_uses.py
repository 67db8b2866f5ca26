"""When each key was used last: noted in memory on the request's path, written by a loop beside it.

What a crash loses is a minute's precision of a time that is shown to people.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.keys import KeyRecord

_PRECISION = timedelta(minutes=1)
"""A key is used on every request; its row need not be written on every one."""


class KeyUses:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: dict[str, datetime] = {}

    def note(self, key: KeyRecord, *, at: datetime) -> None:
        if key.last_used_at is None or at - key.last_used_at > _PRECISION:
            self._pending[key.key_id] = at

    async def step(self) -> None:
        """Write what was noted. Should that fail, the key's next use notes it again."""
        pending, self._pending = self._pending, {}
        if pending:
            await self._database.transact(lambda uow: uow.keys.used(pending))
