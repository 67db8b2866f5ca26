"""Builds of E2B's template builder: asked for as drafts, and started once it is known what from."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.builds import LogEntry
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.templates import TemplateRecord
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.build_bases import Base, BuildBases
from appliance.cubemaster.services.quota import Quota
from appliance.cubemaster.services.template_files import TemplateFiles
from appliance.cubemaster.services.templates import visible_build
from appliance.domain.build_steps import BuildSource
from appliance.domain.errors import BuildNotFound, Conflict, InvalidRequest, QuotaExceeded
from appliance.domain.ids import BuildId, TeamId, TemplateId, new_template_id
from appliance.domain.placement import Resources
from appliance.domain.template import (
    Build,
    BuildSpec,
    BuildStatus,
    TemplateKind,
    TemplateReference,
    parse_build_name,
)

_NOT_WAITING = "build is not in waiting state"


@dataclass(frozen=True, slots=True)
class BuildSizes:
    """What a build gets, and may ask for."""

    default_vcpus: int
    default_memory_mib: int
    steps_room_mib: int
    max_vcpus: int
    max_memory_mib: int
    max_free_disk_mib: int

    def resources(self, vcpus: int | None, memory_mib: int | None) -> Resources:
        if vcpus is None:
            vcpus = self.default_vcpus
        if memory_mib is None:
            memory_mib = self.default_memory_mib
        return Resources(
            _within("cpuCount", vcpus, 1, self.max_vcpus), _within("memoryMB", memory_mib, 128, self.max_memory_mib)
        )

    def writable_layer_mib(self, min_free_disk_mib: int | None) -> int:
        return self.steps_room_mib + _within("minFreeDiskMb", min_free_disk_mib or 0, 0, self.max_free_disk_mib)

    def layer_upon_mib(self, before_mib: int, draft_mib: int) -> int:
        """Return the size of a base's disk with the room that was asked for besides: its files are in the way of none.

        Raises InvalidRequest where templates upon templates would have no end of it.
        """
        asked_mib = max(0, draft_mib - self.steps_room_mib)
        most_mib = max(before_mib, self.steps_room_mib + self.max_free_disk_mib)
        if before_mib + asked_mib > most_mib:
            raise InvalidRequest(
                f"minFreeDiskMb: the disk of the template that this is built from has {before_mib} MiB and may have "
                f"{most_mib} at most; ask for {most_mib - before_mib} or less"
            )
        return before_mib + asked_mib


@dataclass(frozen=True, slots=True)
class RequestedBuild:
    template: TemplateRecord
    build: Build


class TemplateBuilds:
    def __init__(
        self,
        *,
        database: Database,
        bases: BuildBases,
        files: TemplateFiles,
        quota: Quota,
        clock: Clock,
        max_drafts: int,
        sizes: BuildSizes,
    ) -> None:
        self._database = database
        self._bases = bases
        self._files = files
        self._quota = quota
        self._clock = clock
        self._max_drafts = max_drafts
        self._sizes = sizes

    async def request(
        self,
        name: str,
        tags: Sequence[str],
        *,
        team_id: str,
        vcpus: int | None,
        memory_mib: int | None,
        min_free_disk_mib: int | None,
    ) -> RequestedBuild:
        """Make a draft: of a new template, or of the team's that has the name already."""
        named, all_tags = parse_build_name(name, tags)
        spec = BuildSpec(
            image=None,
            registry_login=None,
            resources=self._sizes.resources(vcpus, memory_mib),
            writable_layer_mib=self._sizes.writable_layer_mib(min_free_disk_mib),
        )
        owner, now = TeamId(team_id), self._clock.now()

        def work(uow: UnitOfWork) -> RequestedBuild:
            slug = uow.keys.slug(owner)
            if named.namespace not in (None, slug):
                raise InvalidRequest(f"Invalid name: '{name}': your templates are in '{slug}/', or have no namespace")
            # Else two builds of one new name would each make a template, and drafts be counted before they are there.
            uow.keys.lock_team(owner)
            if uow.builds.draft_count(owner) >= self._max_drafts:
                raise QuotaExceeded(
                    f"the team has {self._max_drafts} builds that were asked for and not started; start them, delete "
                    "their templates, or wait until they are given up"
                )
            template_id = _of_name(uow, named, team_id=owner)
            if template_id is None:
                template_id = new_template_id()
                uow.templates.add(template_id, team_id=owner, public=False, now=now)
                uow.templates.add_alias(named.name, template_id, team_id=owner)
            else:
                uow.templates.touch(template_id, now=now)
            build = Build(
                build_id=BuildId(str(uuid.uuid4())),
                template_id=template_id,
                tags=all_tags,
                status=BuildStatus.WAITING,
                spec=spec,
                created_at=now,
            )
            uow.builds.add(build)
            (record,) = uow.templates.records(template_id=template_id)
            return RequestedBuild(record, build)

        return await self._database.transact(work)

    async def start(self, build_id: str, source: BuildSource, *, team_id: str, template_id: str) -> Build:
        """Say what a draft is made from. From then on it is building."""
        owner, now = TeamId(team_id), self._clock.now()

        def work(uow: UnitOfWork) -> Build:
            uow.keys.lock_team(owner)
            draft = visible_build(uow, build_id, team_id=team_id)
            if draft.template_id != template_id or not uow.templates.lock(draft.template_id):
                raise BuildNotFound(build_id)
            if draft.status is not BuildStatus.WAITING:
                raise InvalidRequest(_NOT_WAITING)
            base = self._bases.find(uow, source, team_id=owner)
            self._files.require(uow, source.steps, team_id=team_id, template_id=draft.template_id, now=now)
            spec = _spec(draft.spec, source, base, self._sizes)
            build = draft.started(spec, at=now)
            if not uow.builds.start(build):
                raise InvalidRequest(_NOT_WAITING)
            self._quota.check_builds(uow, owner)
            return build

        return await self._database.transact(work)

    async def expire_drafts(self, *, older_than: timedelta) -> None:
        """End drafts that were not started, and whose files nobody goes on to put."""
        now = self._clock.now()
        reason = "the build was asked for, but never started"

        def work(uow: UnitOfWork) -> None:
            for build_id in uow.builds.stale_drafts(before=now - older_than):
                uow.builds.cancel(build_id, reason=reason, now=now)
                uow.builds.append_log(build_id, (LogEntry(now, "error", reason),))

        await self._database.transact(work)


def _of_name(uow: UnitOfWork, named: TemplateReference, *, team_id: TeamId) -> TemplateId | None:
    """Return the team's template of that name or id, kept from being deleted until this transaction ends."""
    found = uow.templates.of_alias(named.name, team_id=team_id)
    if found is None and uow.templates.owned(TemplateId(named.name), team_id):
        found = TemplateId(named.name)
    if found is None or not uow.templates.lock(found):
        return None
    if uow.templates.kind(found) is not TemplateKind.TEMPLATE:
        raise Conflict(f"'{named.name}' is the name of a snapshot; choose another one, or delete the snapshot")
    return found


def _spec(draft: BuildSpec, source: BuildSource, base: Base, sizes: BuildSizes) -> BuildSpec:
    """Return what the draft becomes, or raise InvalidRequest where it asked for more disk than it can have.

    What its base started is started again by the node, which has it on record.
    """
    layer_mib = draft.writable_layer_mib
    if base.spec is not None:
        layer_mib = sizes.layer_upon_mib(base.spec.writable_layer_mib, layer_mib)
    return BuildSpec(
        image=base.image,
        from_build=base.build_id,
        registry_login=source.registry_login,
        resources=draft.resources,
        writable_layer_mib=layer_mib,
        steps=source.steps,
        force=source.force,
        start_cmd=source.start_cmd,
        ready_cmd=source.ready_cmd,
        exposed_ports=base.spec.exposed_ports if base.spec else (),
    )


def _within(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidRequest(f"{field} must be between {least} and {most}")
    return value
