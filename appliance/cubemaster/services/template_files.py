"""Files that builds copy in: who may put them, whether they are there, and when they go.

Files belong to a team and are named by its clients: another team's file of the same name is another file.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.template_files import FileKey
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.catalogue import Catalogue
from appliance.cubemaster.services.file_store import FileStore
from appliance.domain.build_steps import FILES_HASH, BuildStep, step_name
from appliance.domain.errors import InvalidRequest, NotFound, PayloadTooLarge, QuotaExceeded, TemplateNotFound
from appliance.domain.ids import TeamId, TemplateId
from appliance.domain.upload_leave import UploadLeave, UploadSigner

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FileLimits:
    max_bytes: int
    team_max_bytes: int
    keep_unused: timedelta
    keep_deleted: timedelta
    """Longer than a draft lives: it was told that its files are there."""


class TemplateFiles:
    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        store: FileStore,
        signer: UploadSigner,
        clock: Clock,
        limits: FileLimits,
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._store = store
        self._signer = signer
        self._clock = clock
        self._limits = limits
        self._coming: Counter[TeamId] = Counter()
        """Bytes of each team's uploads that are under way."""
        self._pairing = asyncio.Lock()
        """Held while a file and its row appear or go: never one without the other."""

    async def leave(self, reference: str, files_hash: str, *, team_id: str) -> tuple[UploadLeave, bool]:
        """Return leave to put a file for one of the team's templates, and whether it is there already."""
        if not FILES_HASH.fullmatch(files_hash):
            raise InvalidRequest("Invalid files hash: it has 64 hex digits in lower case")
        now = self._clock.now()

        def work(uow: UnitOfWork) -> tuple[TemplateId, bool]:
            template_id = self._catalogue.own(uow, reference, team_id=team_id)
            return template_id, bool(uow.template_files.use(team_id, (files_hash,), template_id=template_id, now=now))

        template_id, known = await self._database.transact(work)
        present = known and await self._store.holds(FileKey(TeamId(team_id), files_hash))
        return self._signer.grant(template_id, files_hash, now=now), present

    async def put(self, leave: UploadLeave, chunks: AsyncIterator[bytes], *, length: int) -> None:
        """Take an upload. Nothing is read of one that may not be."""
        self._signer.check(leave, now=self._clock.now())
        if length == 0:
            raise InvalidRequest("the upload is empty; it must be a tar archive, gzipped or not")
        if length > self._limits.max_bytes:
            raise PayloadTooLarge(f"the files of one COPY may have {self._limits.max_bytes} bytes as an archive")
        template_id = TemplateId(leave.template_id)

        def room(uow: UnitOfWork) -> tuple[TeamId, int]:
            team_id = uow.templates.team_of(template_id)
            if team_id is None:
                raise TemplateNotFound(template_id)
            return team_id, uow.template_files.bytes_of(team_id)

        team_id, held = await self._database.transact(room)
        key = FileKey(team_id, leave.files_hash)
        with self._reserved(team_id, length, held):
            async with self._store.received(chunks, length=length) as partial, self._pairing:
                await self._store.keep(partial, key)
                now = self._clock.now()
                await self._database.transact(
                    lambda uow: uow.template_files.put(key, template_id=template_id, size_bytes=length, now=now)
                )
        log.info("template_file_stored", template_id=template_id, files_hash=leave.files_hash, bytes=length)

    async def path(self, template_id: str, files_hash: str) -> Path:
        """Return where the file is that a build of the template copies in, or raise NotFound."""
        now = self._clock.now()

        def work(uow: UnitOfWork) -> FileKey | None:
            team_id = uow.templates.team_of(TemplateId(template_id))
            if team_id is None:
                return None
            known = uow.template_files.use(team_id, (files_hash,), template_id=TemplateId(template_id), now=now)
            return FileKey(team_id, files_hash) if known else None

        key = await self._database.transact(work)
        if key is None or not await self._store.holds(key):
            raise NotFound(f"template '{template_id}' has no file '{files_hash}'")
        return self._store.path(key)

    def require(
        self, uow: UnitOfWork, steps: Sequence[BuildStep], *, team_id: str, template_id: TemplateId, now: datetime
    ) -> None:
        """Keep what the steps copy in until they have, or raise InvalidRequest that names the first that is missing."""
        wanted = {step.files_hash for step in steps if step.files_hash is not None}
        known = uow.template_files.use(team_id, wanted, template_id=template_id, now=now) if wanted else frozenset()
        for number, step in enumerate(steps, 1):
            if step.files_hash is not None and step.files_hash not in known:
                raise InvalidRequest(
                    f"{step_name(number, step.type)}: its files were not uploaded; put them to the url that "
                    f"GET /templates/{template_id}/files/{step.files_hash} answers with"
                )

    async def collect(self) -> None:
        """Remove files that nobody needs, and those that lost their row."""
        now = self._clock.now()
        unneeded = await self._database.transact(
            lambda uow: uow.template_files.unneeded(
                unused_since=now - self._limits.keep_unused, deleted_since=now - self._limits.keep_deleted
            )
        )
        for key in unneeded:
            async with self._pairing:
                await self._database.transact(lambda uow, key=key: uow.template_files.remove(key))  # type: ignore[misc]  # a lambda that keeps its key
                await self._store.remove(key)
            log.info("template_file_collected", team_id=key.team_id, files_hash=key.files_hash)
        async with self._pairing:
            known = await self._database.transact(lambda uow: uow.template_files.keys())
            for key in await self._store.unknown_to(known):
                await self._store.remove(key)

    @contextmanager
    def _reserved(self, team_id: TeamId, length: int, held: int) -> Iterator[None]:
        if held + self._coming[team_id] + length > self._limits.team_max_bytes:
            raise QuotaExceeded(
                f"the team's files for builds may have {self._limits.team_max_bytes} bytes together; delete templates, "
                "or have the operator raise files.team_max_bytes"
            )
        self._coming[team_id] += length
        try:
            yield
        finally:
            self._coming[team_id] -= length
            if self._coming[team_id] <= 0:
                del self._coming[team_id]
