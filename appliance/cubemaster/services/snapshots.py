"""Snapshots: what callers keep of running sandboxes, to start others from."""

from __future__ import annotations

from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.paging import PagePosition, cut
from appliance.cubemaster.persistence.snapshots import SnapshotRecord
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.captures import Captures
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.domain.errors import TemplateInUse, TemplateNotFound
from appliance.domain.ids import TemplateId
from appliance.domain.sandbox import SandboxState
from appliance.domain.template import TemplateKind, parse_reference


class SnapshotService:
    def __init__(self, database: Database, catalogue: Catalogue, captures: Captures) -> None:
        self._database = database
        self._catalogue = catalogue
        self._captures = captures

    async def take(self, sandbox_id: str, *, team_id: str | None, name: str | None, memory: bool) -> SnapshotRecord:
        """Keep a running sandbox as it is now. A name that exists gets a newer snapshot."""
        named = parse_reference(name) if name is not None else None
        capture = await self._captures.take(
            sandbox_id, TemplateKind.SNAPSHOT, team_id=team_id, memory=memory, name=named
        )
        self._catalogue.forget()
        build = capture.build
        (tag,) = build.tags
        found = await self._database.transact(lambda uow: uow.snapshots.find(build.template_id, tag))
        if found is None:
            # Deleted as soon as it was there.
            raise TemplateNotFound(f"{build.template_id}:{tag}")
        return found

    async def page(
        self,
        *,
        team_id: str | None,
        sandbox_id: str | None,
        name: str | None,
        after: PagePosition | None,
        limit: int,
    ) -> tuple[list[SnapshotRecord], PagePosition | None]:
        """Return a page of snapshots, newest first, and where it ended if there is more. Unknown names have none."""
        named = parse_reference(name) if name is not None else None

        def work(uow: UnitOfWork) -> list[SnapshotRecord]:
            return uow.snapshots.page(
                team_id=team_id,
                sandbox_id=sandbox_id,
                name=named.name if named else None,
                namespace=named.namespace if named else None,
                after=after,
                limit=limit + 1,
            )

        return cut(await self._database.transact(work), limit, lambda one: PagePosition(one.taken_at, one.key))


def refuse_while_used(uow: UnitOfWork, template_id: TemplateId) -> None:
    _refuse(template_id, uow.sandboxes.live_states_of_template(template_id))


def take_one_away(uow: UnitOfWork, template_id: TemplateId, tag: str) -> bool:
    """Delete one of several snapshots of a name; return False, and do nothing, where it is the last."""
    tags = {one.tag: one.build_id for one in uow.templates.tags(template_id)}
    build_id = tags.pop(tag, None)
    if build_id is None:
        raise TemplateNotFound(f"{template_id}:{tag}")
    if not tags:
        return False
    if build_id not in tags.values():
        _refuse(template_id, uow.sandboxes.live_states_of_template(template_id, build_id=build_id))
        uow.builds.discard_replicas(build_id)
    uow.templates.unpoint_tags(template_id, [tag])
    return True


def _refuse(template_id: TemplateId, states: frozenset[SandboxState]) -> None:
    if states:
        raise TemplateInUse(template_id, "paused" if states == {SandboxState.PAUSED} else "running")
