"""Templates: ask for a build, look at one, delete."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from appliance.common.clock import Clock
from appliance.common.failpoints import reach
from appliance.cubemaster.persistence.builds import LogEntry
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.paging import PagePosition, cut
from appliance.cubemaster.persistence.templates import TemplateRecord
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.snapshots import refuse_while_used, take_one_away
from appliance.domain.errors import BuildNotFound, Conflict, InvalidRequest, TemplateNotFound
from appliance.domain.ids import BuildId, new_template_id
from appliance.domain.template import (
    DEFAULT_TAG,
    Build,
    BuildSpec,
    BuildStatus,
    TemplateKind,
    TemplateReference,
    levels_from,
    parse_reference,
)

_LOG_PAGE = 500
_REASON_ENTRIES = 20
DEFAULT_TEAM = "default"
"""Slug of the team that owns what is installed with the appliance."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    build: Build
    log: tuple[LogEntry, ...]
    reason_log: tuple[LogEntry, ...] = ()
    """The last that was logged of the step that failed."""


class TemplateService:
    def __init__(self, database: Database, catalogue: Catalogue, clock: Clock, quota: Quota) -> None:
        self._database = database
        self._catalogue = catalogue
        self._clock = clock
        self._quota = quota

    async def create(self, spec: BuildSpec, *, team: str, alias: str | None, public: bool) -> Build:
        """Ask for a build: of a new template, or of the one that has the alias already."""
        named = _own_name(alias, team=team) if alias is not None else None
        now = self._clock.now()

        def work(uow: UnitOfWork) -> Build:
            team_id = uow.keys.team(team, now=now)
            # Else two builds of one new name would each make a template.
            uow.keys.lock_team(team_id)
            template_id = uow.templates.of_alias(named.name, team_id=team_id) if named else None
            if template_id is None:
                template_id = new_template_id()
                uow.templates.add(template_id, team_id=team_id, public=public, now=now)
                if named:
                    uow.templates.add_alias(named.name, template_id, team_id=team_id)
            elif uow.templates.kind(template_id) is not TemplateKind.TEMPLATE:
                raise Conflict(f"'{alias}' is the name of a snapshot; choose another one, or delete the snapshot")
            else:
                uow.templates.touch(template_id, public=public, now=now)
            build = Build(
                build_id=BuildId(str(uuid.uuid4())),
                template_id=template_id,
                tags=(named.tag if named else DEFAULT_TAG,),
                status=BuildStatus.BUILDING,
                spec=spec,
                created_at=now,
                started_at=now,
            )
            uow.builds.add(build)
            self._quota.check_builds(uow, team_id)
            return build

        return await self._database.transact(work)

    async def report(
        self,
        build_id: str,
        *,
        log_offset: int,
        team_id: str | None,
        limit: int = _LOG_PAGE,
        lowest_level: str | None = None,
    ) -> BuildReport:
        """Return a build with its log entries from `log_offset` on, at most `limit`.

        With a lowest level only entries from that one up exist, and the offset counts those.
        """
        levels = levels_from(lowest_level)

        def work(uow: UnitOfWork) -> BuildReport:
            build = visible_build(uow, build_id, team_id=team_id)
            entries = uow.builds.log(build_id, offset=log_offset, limit=limit, levels=levels)
            about = uow.builds.log_of_step(build_id, build.step, limit=_REASON_ENTRIES) if build.step else ()
            return BuildReport(build, tuple(entries), tuple(about))

        return await self._database.transact(work)

    async def log_around(
        self,
        build_id: str,
        *,
        at: datetime | None,
        backward: bool,
        limit: int,
        lowest_level: str | None,
        team_id: str | None,
    ) -> BuildReport:
        """Return a build with its log entries from a time on, or `backward` into the past."""
        levels = levels_from(lowest_level)

        def work(uow: UnitOfWork) -> BuildReport:
            build = visible_build(uow, build_id, team_id=team_id)
            entries = uow.builds.log_around(build_id, at=at, backward=backward, limit=limit, levels=levels)
            return BuildReport(build, tuple(entries))

        return await self._database.transact(work)

    async def builds(
        self, reference: str, *, team_id: str | None, after: PagePosition | None, limit: int
    ) -> tuple[list[Build], PagePosition | None]:
        """Return a page of a template's builds, newest first, and where it ended if there is more."""

        def work(uow: UnitOfWork) -> list[Build]:
            template_id = self._catalogue.own(uow, reference, team_id=team_id)
            return uow.builds.page(template_id, after=after, limit=limit + 1)

        return cut(await self._database.transact(work), limit, lambda one: PagePosition(one.created_at, one.build_id))

    async def page(
        self, *, team_id: str, after: PagePosition | None, limit: int
    ) -> tuple[list[TemplateRecord], PagePosition | None]:
        """Return a page of the team's templates, newest first, and where it ended if there is more."""
        found = await self._database.transact(lambda uow: uow.templates.page(team_id, after=after, limit=limit + 1))
        return cut(found, limit, lambda one: PagePosition(one.created_at, one.template_id))

    async def defaults(self) -> list[TemplateRecord]:
        """Return what the appliance itself offers to everybody: the public templates of its own team."""
        return await self._database.transact(lambda uow: uow.templates.public_of(DEFAULT_TEAM))

    async def publish(self, reference: str, *, public: bool | None, team_id: str | None) -> TemplateRecord:
        """Open a template to other teams, or close it to them; None leaves it as it is."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> list[TemplateRecord]:
            template_id = self._catalogue.own(uow, reference, team_id=team_id)
            if public is not None:
                uow.templates.touch(template_id, public=public, now=now)
            return uow.templates.records(template_id=template_id)

        found = await self._database.transact(work)
        if not found:
            raise TemplateNotFound(reference)
        return found[0]

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
            template_id = self._catalogue.own(uow, reference, team_id=team_id)
            if not uow.templates.lock(template_id):
                raise TemplateNotFound(reference)
            is_snapshot = uow.templates.kind(template_id) is TemplateKind.SNAPSHOT
            if is_snapshot and take_one_away(uow, template_id, parse_reference(reference).tag):
                return
            refuse_while_used(uow, template_id)
            for build in uow.builds.of_template(template_id):
                uow.builds.cancel(build.build_id, reason="its template was deleted", now=now)
            uow.templates.hide(template_id, now=now)

        await self._database.transact(work)
        reach("delete:written")
        self._catalogue.forget()


def visible_build(uow: UnitOfWork, build_id: str, *, team_id: str | None) -> Build:
    """Return a build of the team's, or raise BuildNotFound."""
    build = uow.builds.find(build_id)
    if build is None or (team_id is not None and not uow.templates.owned(build.template_id, team_id)):
        raise BuildNotFound(build_id)
    return build


def _own_name(alias: str, *, team: str) -> TemplateReference:
    named = parse_reference(alias)
    if named.namespace not in (None, team):
        raise InvalidRequest(f"alias '{alias}' names team '{named.namespace}', but the template belongs to '{team}'")
    return named
