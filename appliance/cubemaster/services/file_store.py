"""Archives of COPY steps on this machine's disk: written whole or not at all, never held in memory."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from appliance.cubemaster.persistence.template_files import FileKey
from appliance.domain.errors import DeadlineExceeded, InvalidRequest, Unavailable
from appliance.domain.ids import TeamId

_WRITE_BYTES = 2**20
"""What is gathered for one visit to a thread."""
_PARTIAL = ".partial-"
_NEW = timedelta(minutes=10)
"""Files that nobody knows are left alone for so long: their row may be about to be written."""


class FileStore:
    """`<directory>/<team>/<hash>`. Names are checked before they come here: ids of ours and hex digits."""

    def __init__(self, directory: Path, *, reserve_bytes: int, idle: timedelta) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._idle_s = idle.total_seconds()

    def path(self, key: FileKey) -> Path:
        return self._directory / key.team_id / key.files_hash

    async def holds(self, key: FileKey) -> bool:
        return await asyncio.to_thread(self.path(key).is_file)

    @asynccontextmanager
    async def received(self, chunks: AsyncIterator[bytes], *, length: int) -> AsyncIterator[Path]:
        """Yield a file with exactly `length` bytes of an upload, on the disk for good, which is removed if left there.

        Raises InvalidRequest where the upload is shorter or longer, DeadlineExceeded where it stands still, and
        Unavailable where the disk has no room.
        """
        partial = self._directory / f"{_PARTIAL}{uuid.uuid4()}"
        try:
            await asyncio.to_thread(self._prepare, length)
            file = await asyncio.to_thread(partial.open, "xb", buffering=0)
            try:
                received = 0
                async for block in _blocks(self._timely(chunks)):
                    received += len(block)
                    if received > length:
                        break
                    await asyncio.to_thread(file.write, block)
                if received != length:
                    raise InvalidRequest(f"the upload has other than the {length} bytes that its Content-Length says")
                await asyncio.to_thread(os.fsync, file.fileno())
            finally:
                file.close()
            yield partial
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _no_room() from error
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)

    async def keep(self, partial: Path, key: FileKey) -> None:
        """Give a received file its name, in place of one that has it."""
        await asyncio.to_thread(self._keep, partial, key)

    async def remove(self, key: FileKey) -> None:
        await asyncio.to_thread(self.path(key).unlink, missing_ok=True)

    async def unknown_to(self, known: frozenset[FileKey]) -> list[FileKey]:
        """Return the files that are in no row, and not new."""
        return await asyncio.to_thread(lambda: [key for key in self._old_files() if key not in known])

    async def remove_leftovers(self) -> None:
        """Remove uploads that a former process did not finish. Only before the first of this one."""
        await asyncio.to_thread(self._remove_leftovers)

    def _prepare(self, length: int) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._directory).free - length < self._reserve_bytes:
            raise _no_room()

    def _keep(self, partial: Path, key: FileKey) -> None:
        target = self.path(key)
        target.parent.mkdir(exist_ok=True)
        partial.rename(target)
        for directory in (target.parent, self._directory):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _old_files(self) -> Iterator[FileKey]:
        old = time.time() - _NEW.total_seconds()
        for path in self._directory.glob("*/*"):
            if path.stat().st_mtime < old:
                yield FileKey(TeamId(path.parent.name), path.name)

    def _remove_leftovers(self) -> None:
        for path in self._directory.glob(f"{_PARTIAL}*"):
            path.unlink()

    async def _timely(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise DeadlineExceeded("the next part of the upload", self._idle_s) from error
            yield chunk


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    block = bytearray()
    async for chunk in chunks:
        block += chunk
        if len(block) >= _WRITE_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _no_room() -> Unavailable:
    error = Unavailable("the control node's disk has no room for the upload; have the operator make some")
    error.retry_after_s = None
    return error
