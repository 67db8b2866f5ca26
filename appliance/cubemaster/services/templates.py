"""Templates: ask for a build, look at one, delete."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.builds import LogEntry
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.templates import TemplateRecord
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.domain.errors import BuildNotFound, Conflict, Forbidden, InvalidRequest, TemplateNotFound
from appliance.domain.ids import BuildId, TemplateId, new_template_id
from appliance.domain.template import (
    DEFAULT_TAG,
    Build,
    BuildSpec,
    BuildStatus,
    TemplateReference,
    parse_reference,
)

_LOG_PAGE = 500


@dataclass(frozen=True, slots=True)
class BuildReport:
    build: Build
    log: tuple[LogEntry, ...]


class TemplateService:
    def __init__(self, database: Database, catalogue: Catalogue, clock: Clock) -> None:
        self._database = database
        self._catalogue = catalogue
        self._clock = clock

    async def create(self, spec: BuildSpec, *, team: str, alias: str | None, public: bool) -> Build:
        """Ask for a build: of a new template, or of the one that has the alias already."""
        named = _own_name(alias, team=team) if alias is not None else None
        now = self._clock.now()

        def work(uow: UnitOfWork) -> Build:
            team_id = uow.keys.team(team, now=now)
            template_id = uow.templates.of_alias(named.name, team_id=team_id) if named else None
            if template_id is None:
                template_id = new_template_id()
                uow.templates.add(template_id, team_id=team_id, public=public, now=now)
                if named:
                    uow.templates.add_alias(named.name, template_id, team_id=team_id)
            else:
                uow.templates.touch(template_id, public=public, now=now)
            build = Build(
                build_id=BuildId(str(uuid.uuid4())),
                template_id=template_id,
                tag=named.tag if named else DEFAULT_TAG,
                status=BuildStatus.WAITING,
                spec=spec,
                created_at=now,
            )
            uow.builds.add(build)
            return build

        return await self._database.transact(work)

    async def report(self, build_id: str, *, log_offset: int, team_id: str | None) -> BuildReport:
        """Return a build with its log entries from `log_offset` on, a page at most."""

        def work(uow: UnitOfWork) -> BuildReport | None:
            build = uow.builds.find(build_id)
            if build is None or (team_id is not None and not uow.templates.owned(build.template_id, team_id)):
                return None
            return BuildReport(build, tuple(uow.builds.log(build_id, offset=log_offset, limit=_LOG_PAGE)))

        report = await self._database.transact(work)
        if report is None:
            raise BuildNotFound(build_id)
        return report

    async def all(self, *, team_id: str | None) -> list[TemplateRecord]:
        return await self._database.transact(lambda uow: uow.templates.records(team_id=team_id))

    async def get(self, reference: str, *, team_id: str | None) -> TemplateRecord:
        def work(uow: UnitOfWork) -> list[TemplateRecord]:
            return uow.templates.records(template_id=self._catalogue.find(uow, reference, team_id=team_id))

        found = await self._database.transact(work)
        if not found:
            raise TemplateNotFound(reference)
        return found[0]

    async def delete(self, reference: str, *, team_id: str | None) -> None:
        """Delete it, unless sandboxes use it. Nodes free their copies soon after."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> None:
            template_id = self._catalogue.find(uow, reference, team_id=team_id)
            if team_id is not None and not uow.templates.owned(template_id, team_id):
                raise Forbidden(f"template '{reference}' belongs to another team")
            if not uow.templates.lock(template_id):
                raise TemplateNotFound(reference)
            self._refuse_while_used(uow, template_id, reference)
            for build in uow.builds.of_template(template_id):
                uow.builds.cancel(build.build_id, reason="its template was deleted", now=now)
            uow.templates.hide(template_id, now=now)

        await self._database.transact(work)

    def _refuse_while_used(self, uow: UnitOfWork, template_id: TemplateId, reference: str) -> None:
        users = uow.sandboxes.live_count_of_template(template_id)
        if users:
            raise Conflict(f"template '{reference}' is used by {users} sandboxes; kill them first")


def _own_name(alias: str, *, team: str) -> TemplateReference:
    named = parse_reference(alias)
    if named.namespace not in (None, team):
        raise InvalidRequest(f"alias '{alias}' names team '{named.namespace}', but the template belongs to '{team}'")
    return named
