"""Tags: the names under which a template's builds are started. They move by hand here, and with each finished build."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.templates import AssignedTag
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.domain.errors import InvalidRequest, NotFound, TemplateNotFound
from appliance.domain.ids import BuildId
from appliance.domain.template import DEFAULT_TAG, parse_reference, parse_tag


class TagService:
    def __init__(self, database: Database, catalogue: Catalogue, clock: Clock) -> None:
        self._database = database
        self._catalogue = catalogue
        self._clock = clock

    async def assign(self, target: str, tags: Sequence[str], *, team_id: str | None) -> tuple[tuple[str, ...], BuildId]:
        """Point `tags` at the build that `target` (`name[:tag]`) means; return them as they are kept, and the build."""
        reference = parse_reference(target)
        wanted = _parsed(tags)
        now = self._clock.now()

        def work(uow: UnitOfWork) -> BuildId:
            template_id = self._catalogue.own(uow, target, team_id=team_id)
            # Against its deletion, which frees the tags.
            if not uow.templates.lock(template_id):
                raise TemplateNotFound(target)
            named = uow.templates.resolve(reference, team_id=team_id)
            if named is None or named.build is None:
                raise NotFound(f"Template '{reference.name}' with tag '{reference.tag}' not found")
            for tag in wanted:
                uow.templates.point_tag(template_id, tag, named.build.build_id, now=now)
            return named.build.build_id

        return wanted, await self._database.transact(work)

    async def remove(self, name: str, tags: Sequence[str], *, team_id: str | None) -> None:
        """Take tags from a template. Absent ones are success."""
        if ":" in name:
            raise InvalidRequest("Template name should not contain a tag, use the 'tags' field instead")
        unwanted = _parsed(tags)
        if DEFAULT_TAG in unwanted:
            raise InvalidRequest(f"Cannot delete the '{DEFAULT_TAG}' tag")

        def work(uow: UnitOfWork) -> None:
            uow.templates.unpoint_tags(self._catalogue.own(uow, name, team_id=team_id), unwanted)

        await self._database.transact(work)

    async def all(self, reference: str, *, team_id: str | None) -> list[AssignedTag]:
        """Return a template's tags, the newest first."""
        return await self._database.transact(
            lambda uow: uow.templates.tags(self._catalogue.own(uow, reference, team_id=team_id))
        )


def _parsed(tags: Sequence[str]) -> tuple[str, ...]:
    if not tags:
        raise InvalidRequest("At least one tag is required")
    return tuple(dict.fromkeys(parse_tag(tag) for tag in tags))
