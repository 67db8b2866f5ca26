"""Secrets of teams: stored sealed, in versions, and never shown.

A change gives another name to the network rules of all sandboxes that use the secret, in the same transaction: the
next heartbeat of each one's node then finds that it has to be told. Policies read the rules before the secrets, and
creates lock the team as changes do: so whoever read an older value has the older name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.paging import PagePosition, cut
from appliance.cubemaster.persistence.secrets import SecretRecord
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.sealing import Sealer, secret_place
from appliance.cubemaster.services.teams import found_team
from appliance.domain.errors import QuotaExceeded
from appliance.domain.ids import TeamId, new_revision
from appliance.domain.secret import (
    KEPT_VERSIONS,
    MAX_PER_TEAM,
    SecretNotFound,
    check_metadata,
    check_value,
    new_secret_id,
    parse_name,
    parse_selector,
)


class SecretService:
    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock

    async def create(self, team_id: str, name: str, value: str, metadata: Mapping[str, str]) -> SecretRecord:
        check_value(value)
        check_metadata(metadata)
        now = self._clock.now()
        secret = SecretRecord(
            secret_id=new_secret_id(),
            team_id=TeamId(team_id),
            name=parse_name(name),
            current_version=1,
            metadata=metadata,
            created_at=now,
            updated_at=now,
        )
        sealed = self._sealer.seal(value, place=secret_place(secret.secret_id, 1))

        def work(uow: UnitOfWork) -> SecretRecord:
            found_team(uow, team_id)
            uow.keys.lock_team(secret.team_id)
            if uow.secrets.count(team_id) >= MAX_PER_TEAM:
                raise QuotaExceeded(f"the team has {MAX_PER_TEAM} secrets; delete those that nobody uses")
            uow.secrets.add(secret)
            uow.secrets.add_version(secret.secret_id, 1, sealed, now=now)
            # There may have been one of that name, which sandboxes still miss.
            _rename_rules(uow, secret)
            return secret

        return await self._changed(work)

    async def update(self, team_id: str, selector: str, value: str, metadata: Mapping[str, str] | None) -> SecretRecord:
        """Make the value the newest version; without metadata that stays as it is."""
        check_value(value)
        check_metadata(metadata or {})
        now = self._clock.now()

        def work(uow: UnitOfWork) -> SecretRecord:
            uow.keys.lock_team(TeamId(team_id))
            before = _found(uow, selector, team_id=team_id, lock=True)
            version = before.current_version + 1
            after = replace(
                before,
                current_version=version,
                metadata=before.metadata if metadata is None else metadata,
                updated_at=now,
            )
            sealed = self._sealer.seal(value, place=secret_place(after.secret_id, version))
            uow.secrets.add_version(after.secret_id, version, sealed, now=now)
            uow.secrets.forget_versions(after.secret_id, up_to=version - KEPT_VERSIONS)
            uow.secrets.save(after)
            _rename_rules(uow, after)
            return after

        return await self._changed(work)

    async def get(self, team_id: str, selector: str) -> SecretRecord:
        return await self._database.transact(lambda uow: _found(uow, selector, team_id=team_id))

    async def page(
        self, team_id: str, *, after: PagePosition | None, limit: int
    ) -> tuple[list[SecretRecord], PagePosition | None]:
        """Return a page of a team's secrets, newest first, and where it ended if there is more."""
        found = await self._database.transact(lambda uow: uow.secrets.page(team_id, after=after, limit=limit + 1))
        return cut(found, limit, lambda one: PagePosition(one.created_at, one.secret_id))

    async def delete(self, team_id: str, selector: str) -> None:
        """Delete it also while sandboxes use it: their requests for those domains are refused then."""

        def work(uow: UnitOfWork) -> SecretRecord:
            uow.keys.lock_team(TeamId(team_id))
            secret = _found(uow, selector, team_id=team_id, lock=True)
            uow.secrets.remove(secret.secret_id)
            _rename_rules(uow, secret)
            return secret

        await self._changed(work)

    async def _changed(self, work: Callable[[UnitOfWork], SecretRecord]) -> SecretRecord:
        secret = await self._database.transact(work)
        reach("secret:written")
        return secret


def _rename_rules(uow: UnitOfWork, secret: SecretRecord) -> None:
    uow.sandboxes.rename_rules_with(secret.name, team_id=secret.team_id, revision=new_revision())


def _found(uow: UnitOfWork, selector: str, *, team_id: str, lock: bool = False) -> SecretRecord:
    secret = uow.secrets.find(parse_selector(selector), team_id=team_id, lock=lock)
    if secret is None:
        raise SecretNotFound(selector)
    return secret
