"""E2B's content API: what is known of a volume's entries, and their names."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from guest_agent.bodies import read_document
from guest_agent.envelope import JsonObject
from guest_agent.volumes import inside
from guest_agent.volumes.attributes import Attributes, checked_attributes, describe, is_forced, wanted_attributes
from guest_agent.volumes.failures import VolumeError, already_exists, invalid
from guest_agent.volumes.mounted import Volumes, path_of

_DIRECTORY_MODE = 0o755
_MOST_DEPTH = 10
_MOST_ENTRIES = 100_000


class VolumeEntries:
    """What changes a name is on the disk before it is answered: the machine may be ended at any time."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    async def stat(self, request: Request) -> ASGIApp:
        path = path_of(request)
        with self._volumes.root(request) as root, parent_of(root, path) as (directory, name):
            return JSONResponse(describe(path, directory, name))

    async def change(self, request: Request) -> ASGIApp:
        """Set owner and mode; those of what a link points to, where it is one."""
        path = path_of(request)
        wanted = checked_attributes(await _document(request))
        with self._volumes.root(request) as root:
            entry = inside.open_inside(root, path, os.O_PATH)
            try:
                _change(Path(f"/proc/self/fd/{entry}"), wanted)
            finally:
                os.close(entry)
            with parent_of(root, path) as (directory, name):
                await asyncio.to_thread(os.sync)
                return JSONResponse(describe(path, directory, name))

    async def remove(self, request: Request) -> ASGIApp:
        """Remove an entry, with all that is in it."""
        path = path_of(request)
        if path == "/":
            raise VolumeError(400, "cannot_delete_root", "the root of a volume cannot be removed")
        with self._volumes.root(request) as root, parent_of(root, path) as (directory, name):
            await asyncio.to_thread(_remove, directory, name)
        return Response(status_code=204)

    async def list_directory(self, request: Request) -> ASGIApp:
        path = path_of(request)
        depth = _depth(request.query_params.get("depth", "1"))
        with self._volumes.root(request) as root:
            directory = inside.open_directory(root, path)
            try:
                listed = await asyncio.to_thread(_listed, directory, path, depth)
            finally:
                os.close(directory)
        return JSONResponse(listed)

    async def make_directory(self, request: Request) -> ASGIApp:
        path = path_of(request)
        wanted = wanted_attributes(request, mode=_DIRECTORY_MODE)
        with self._volumes.root(request) as root:
            if is_forced(request):
                await asyncio.to_thread(make_directories, root, path, wanted)
            elif path == "/":
                raise already_exists(path)
            else:
                with parent_of(root, path) as (directory, name):
                    await asyncio.to_thread(_make, directory, name, wanted)
            with parent_of(root, path) as (directory, name):
                return JSONResponse(describe(path, directory, name), 201)


@contextmanager
def parent_of(root: int, path: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the directory that a clean path's last name is in, and the name."""
    directory, name = inside.split(path)
    descriptor = inside.open_directory(root, directory)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


def make_directories(root: int, path: str, wanted: Attributes) -> None:
    """Make a directory and the parents it lacks. One that exists is left as it is. Raises OSError."""
    made = ""
    for name in path.strip("/").split("/"):
        if not name:
            return
        with parent_of(root, f"{made}/{name}") as (directory, _):
            made = f"{made}/{name}"
            try:
                _make(directory, name, wanted)
            except FileExistsError:
                # Opened by its path: a link to a directory is one, too.
                try:
                    os.close(inside.open_directory(root, made))
                except NotADirectoryError:
                    if made == path:
                        raise FileExistsError(17, "a file is in the way", made) from None
                    raise


def _make(directory: int, name: str, wanted: Attributes) -> None:
    os.mkdir(name, 0o700, dir_fd=directory)
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        wanted.give(made)
        os.fsync(made)
    finally:
        os.close(made)
    os.fsync(directory)


def _change(entry: Path, wanted: dict[str, int]) -> None:
    if "uid" in wanted or "gid" in wanted:
        os.chown(entry, wanted.get("uid", -1), wanted.get("gid", -1))
    if "mode" in wanted:
        entry.chmod(wanted["mode"])


def _remove(directory: int, name: str) -> None:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        # Never follows a link, also where one takes the place of a directory meanwhile.
        shutil.rmtree(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)
    os.fsync(directory)


def _listed(directory: int, path: str, depth: int) -> list[JsonObject]:
    found: list[JsonObject] = []
    _list_into(found.append, directory, path.rstrip("/"), depth, left=lambda: _MOST_ENTRIES - len(found))
    return found


def _list_into(
    add: Callable[[JsonObject], None], directory: int, path: str, depth: int, *, left: Callable[[], int]
) -> None:
    for name in sorted(os.listdir(directory)):
        if left() <= 0:
            raise invalid(f"the directory has more than {_MOST_ENTRIES} entries; list a part of it, or less deep")
        try:
            entry = describe(f"{path}/{name}", directory, name)
            add(entry)
            if depth > 1 and entry["type"] == "directory":
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                try:
                    _list_into(add, below, f"{path}/{name}", depth - 1, left=left)
                finally:
                    os.close(below)
        except (FileNotFoundError, NotADirectoryError):
            # Removed or replaced while it was listed.
            continue


def _depth(text: str) -> int:
    if not text.isdecimal() or int(text) > _MOST_DEPTH:
        raise VolumeError(400, "depth_out_of_range", f"depth must be between 1 and {_MOST_DEPTH}")
    return max(1, int(text))


async def _document(request: Request) -> JsonObject:
    try:
        document = json.loads(await read_document(request) or b"{}")
    except (ValueError, RecursionError) as error:
        raise invalid(f"invalid body: {error}") from error
    if not isinstance(document, dict):
        raise invalid("invalid body: not an object")
    return document
