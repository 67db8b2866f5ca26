"""E2B's content API: what is in a volume's files."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from guest_agent.files.download import FileResponse, pieces_of
from guest_agent.files.ranges import ByteRange
from guest_agent.volumes import inside
from guest_agent.volumes.attributes import Attributes, describe, is_forced, wanted_attributes
from guest_agent.volumes.entries import make_directories, parent_of
from guest_agent.volumes.failures import VolumeError, already_exists, not_found
from guest_agent.volumes.mounted import Volumes, path_of

_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755


class VolumeTransfers:
    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    async def read(self, request: Request) -> ASGIApp:
        path = path_of(request)
        with self._volumes.root(request) as root:
            # Without O_NONBLOCK, opening a named pipe would stop the agent.
            descriptor = inside.open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise not_found(path)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(status.st_size)}
        return FileResponse(200, headers, pieces_of(descriptor, ByteRange(0, status.st_size)), descriptor)

    async def write(self, request: Request) -> ASGIApp:
        """Make a file, or with `force` put it in the place of one. It is there as a whole, and on the disk, or not."""
        path = path_of(request)
        wanted = wanted_attributes(request, mode=_FILE_MODE)
        force = is_forced(request)
        with self._volumes.root(request) as root:
            if force:
                parents = Attributes(wanted.uid, wanted.gid, _DIRECTORY_MODE)
                await asyncio.to_thread(make_directories, root, inside.split(path)[0], parents)
            with parent_of(root, path) as (directory, name):
                _check_free(directory, name, path, force=force)
                await _write(directory, name, request.stream(), wanted, force=force)
                return JSONResponse(describe(path, directory, name), 201)


def _check_free(directory: int, name: str, path: str, *, force: bool) -> None:
    """Refuse what cannot become a file before any of it is sent."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise VolumeError(409, "path_already_exists", f"Path {path} is a directory")
    if not force:
        raise already_exists(path)


async def _write(directory: int, name: str, body: AsyncIterator[bytes], wanted: Attributes, *, force: bool) -> None:
    # Without a name until it is whole: what is left of an upload that fails is freed by the kernel.
    descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        async for chunk in body:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        wanted.give(descriptor)
        await asyncio.to_thread(_publish, descriptor, directory, name, force)
    finally:
        os.close(descriptor)


def _publish(descriptor: int, directory: int, name: str, force: bool) -> None:
    os.fsync(descriptor)
    if force:
        # There is no call that gives a file without a name the name of another.
        passing = f".e2b-{secrets.token_hex(8)}"
        _link(descriptor, directory, passing)
        try:
            os.rename(passing, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(passing, dir_fd=directory)
            raise
    else:
        _link(descriptor, directory, name)
    os.fsync(directory)


def _link(descriptor: int, directory: int, name: str) -> None:
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=directory, follow_symlinks=True)
