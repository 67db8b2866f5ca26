"""API keys: made once, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from datetime import datetime

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.keys import KeyRecord
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.key_uses import KeyUses
from appliance.domain.access import Scope
from appliance.domain.errors import InvalidRequest, NotFound, QuotaExceeded, TeamNotFound, Unauthenticated
from appliance.domain.ids import TeamId, new_api_key
from appliance.domain.team import parse_slug

_MAX_PER_TEAM = 500


@dataclass(frozen=True, slots=True)
class KeyWish:
    """A key somebody wants."""

    name: str
    scopes: frozenset[Scope] | None
    expires_at: datetime | None
    team: str
    """Slug, of a team that is made where there is none."""
    team_id: str | None = None
    """In place of the slug: a team that exists."""


class KeyService:
    def __init__(self, database: Database, clock: Clock, uses: KeyUses) -> None:
        self._database = database
        self._clock = clock
        self._uses = uses

    async def create(self, wish: KeyWish) -> tuple[KeyRecord, str]:
        """Return the new key's record and the key itself, which cannot be read again."""
        key = new_api_key()
        now = self._clock.now()
        if wish.expires_at is not None and wish.expires_at <= now:
            raise InvalidRequest("the time at which the key expires has passed already")

        def work(uow: UnitOfWork) -> KeyRecord:
            team_id, slug = _team(uow, wish, now=now)
            uow.keys.lock_team(team_id)
            if uow.keys.count(team_id) >= _MAX_PER_TEAM:
                raise QuotaExceeded(f"the team has {_MAX_PER_TEAM} API keys; delete those that nobody uses")
            record = KeyRecord(
                key_id=str(uuid.uuid4()),
                team_id=team_id,
                team_slug=slug,
                name=wish.name,
                mask=f"{key[:6]}...{key[-4:]}",
                scopes=wish.scopes,
                created_at=now,
                expires_at=wish.expires_at,
                last_used_at=None,
            )
            uow.keys.add(record, sha256=hashlib.sha256(key.encode()).hexdigest())
            return record

        return await self._database.transact(work), key

    async def all(self, *, team_id: str | None) -> list[KeyRecord]:
        return await self._database.transact(lambda uow: uow.keys.all(team_id=team_id))

    async def rename(self, key_id: str, name: str, *, team_id: str | None) -> KeyRecord:
        def work(uow: UnitOfWork) -> KeyRecord:
            record = uow.keys.get(key_id, team_id=team_id)
            if record is None:
                raise NotFound("API key not found")
            uow.keys.rename(key_id, name, team_id=team_id)
            return replace(record, name=name)

        return await self._database.transact(work)

    async def revoke(self, key_id: str, *, team_id: str | None) -> None:
        now = self._clock.now()
        if not await self._database.transact(lambda uow: uow.keys.revoke(key_id, team_id=team_id, at=now)):
            raise NotFound("API key not found")

    async def resolve(self, sha256: str) -> KeyRecord:
        now = self._clock.now()
        record = await self._database.transact(lambda uow: uow.keys.find(sha256, now=now))
        if record is None:
            raise Unauthenticated("invalid API key; make one with `cubemastercli key create`")
        self._uses.note(record, at=now)
        return record


def _team(uow: UnitOfWork, wish: KeyWish, *, now: datetime) -> tuple[TeamId, str]:
    if wish.team_id is None:
        return uow.keys.team(parse_slug(wish.team), now=now), wish.team
    team = uow.teams.find(wish.team_id)
    if team is None:
        raise TeamNotFound(wish.team_id)
    return team.team_id, team.slug
