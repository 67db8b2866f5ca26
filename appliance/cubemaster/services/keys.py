"""API keys: made once, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import uuid
from datetime import timedelta

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.keys import KeyRecord
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.domain.errors import NotFound, Unauthenticated
from appliance.domain.ids import new_api_key

_LAST_USED_PRECISION = timedelta(minutes=1)
"""A key is used on every request; its row need not be written on every one."""


class KeyService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, *, team: str, name: str) -> tuple[KeyRecord, str]:
        """Return the new key's record and the key itself, which cannot be read again."""
        key = new_api_key()
        now = self._clock.now()

        def work(uow: UnitOfWork) -> KeyRecord:
            record = KeyRecord(
                key_id=str(uuid.uuid4()),
                team_id=uow.keys.team(team, now=now),
                team_slug=team,
                name=name,
                mask=f"{key[:6]}...{key[-4:]}",
                created_at=now,
                last_used_at=None,
            )
            uow.keys.add(record, sha256=hashlib.sha256(key.encode()).hexdigest())
            return record

        return await self._database.transact(work), key

    async def all(self) -> list[KeyRecord]:
        return await self._database.transact(lambda uow: uow.keys.all())

    async def revoke(self, key_id: str) -> None:
        now = self._clock.now()
        if not await self._database.transact(lambda uow: uow.keys.revoke(key_id, at=now)):
            raise NotFound(f"key '{key_id}' not found; see `cubemastercli key list`")

    async def resolve(self, sha256: str) -> KeyRecord:
        now = self._clock.now()

        def work(uow: UnitOfWork) -> KeyRecord | None:
            record = uow.keys.find(sha256)
            if record and (record.last_used_at is None or now - record.last_used_at > _LAST_USED_PRECISION):
                uow.keys.used(record.key_id, at=now)
            return record

        record = await self._database.transact(work)
        if record is None:
            raise Unauthenticated("invalid API key; make one with `cubemastercli key create`")
        return record
