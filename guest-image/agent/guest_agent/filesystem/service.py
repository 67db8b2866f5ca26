"""The unary RPCs of filesystem.Filesystem. Work that grows with the tree runs in a thread."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

from guest_agent.connect import Call
from guest_agent.context import Context
from guest_agent.envelope import JsonObject
from guest_agent.errors import Code, RpcError
from guest_agent.fields import uint32_field
from guest_agent.filesystem.entries import Entry, FileType, describe
from guest_agent.filesystem.moving import move
from guest_agent.filesystem.ownership import make_directories
from guest_agent.users import UserDatabase

T = TypeVar("T")

MAX_ENTRIES = 100_000
"""Of one listing, whose answer is made in memory."""

_CODES = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENOTDIR: Code.INVALID_ARGUMENT,
    errno.EISDIR: Code.INVALID_ARGUMENT,
    errno.EINVAL: Code.INVALID_ARGUMENT,
    errno.ENAMETOOLONG: Code.INVALID_ARGUMENT,
    errno.ENOTEMPTY: Code.FAILED_PRECONDITION,
    errno.ELOOP: Code.FAILED_PRECONDITION,
    errno.EROFS: Code.PERMISSION_DENIED,
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.EPERM: Code.PERMISSION_DENIED,
}


class FilesystemService:
    """Acts as root, like E2B's agent, and gives what it makes to the calling user."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def stat(self, call: Call, message: JsonObject) -> JsonObject:
        path = self._path(call, message, "path")
        return {"entry": _described(path, self._context.users).encode()}

    async def make_dir(self, call: Call, message: JsonObject) -> JsonObject:
        user = self._context.user(call.user_name)
        path = self._path(call, message, "path")
        try:
            kind = os.stat(path).st_mode  # noqa: PTH116 - plain strings on this path
        except OSError:
            _translate(partial(make_directories, path, user), path)
        else:
            if stat.S_ISDIR(kind):
                raise RpcError(Code.ALREADY_EXISTS, f"directory already exists: {path}")
            raise RpcError(Code.INVALID_ARGUMENT, f"path already exists but it is not a directory: {path}")
        return {"entry": _described(path, self._context.users).encode()}

    async def move(self, call: Call, message: JsonObject) -> JsonObject:
        user = self._context.user(call.user_name)
        source = self._path(call, message, "source")
        destination = self._path(call, message, "destination")
        await asyncio.to_thread(_translate, partial(move, source, destination, user), source)
        return {"entry": _described(destination, self._context.users).encode()}

    async def list_dir(self, call: Call, message: JsonObject) -> JsonObject:
        path = self._path(call, message, "path")
        walk = partial(list_tree, path, uint32_field(message, "depth") or 1, self._context.users)
        entries = await asyncio.to_thread(_translate, walk, path)
        return {"entries": [entry.encode() for entry in entries]}

    async def remove(self, call: Call, message: JsonObject) -> JsonObject:
        path = self._path(call, message, "path")
        await asyncio.to_thread(_translate, partial(remove_tree, path), path)
        return {}

    def _path(self, call: Call, message: JsonObject, name: str) -> str:
        path = message.get(name, "")
        if not isinstance(path, str) or "\0" in path:
            raise RpcError(Code.INVALID_ARGUMENT, f"invalid value of field '{name}'")
        return self._context.path(path, self._context.user(call.user_name))


def list_tree(root: str, depth: int, users: UserDatabase) -> list[Entry]:
    """Return what is below `root`, `depth` levels deep, each directory before its content, by name.

    Links are listed, not followed, but for `root` itself. What vanishes meanwhile is left out.
    """
    if not stat.S_ISDIR(os.stat(root).st_mode):  # noqa: PTH116
        raise NotADirectoryError(errno.ENOTDIR, "path is not a directory", root)
    entries = list(islice(_walk(root, depth, users), MAX_ENTRIES + 1))
    if len(entries) > MAX_ENTRIES:
        raise RpcError(
            Code.RESOURCE_EXHAUSTED, f"more than {MAX_ENTRIES} entries below {root}: ask for fewer levels, or a part"
        )
    return entries


def _walk(directory: str, depth: int, users: UserDatabase) -> Iterator[Entry]:
    prefix = directory.rstrip("/") + "/"
    for name in sorted(os.listdir(directory)):  # noqa: PTH208
        try:
            entry = describe(prefix + name, users)
        except OSError:
            continue
        yield entry
        if depth > 1 and entry.type is FileType.DIRECTORY and entry.symlink_target is None:
            yield from _walk(entry.path, depth - 1, users)


def remove_tree(path: str) -> None:
    """Remove a file, link or whole directory. Absent is success."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(path)


def _described(path: str, users: UserDatabase) -> Entry:
    return _translate(partial(describe, path, users), path)


def _translate(action: Callable[[], T], path: str) -> T:
    """Run `action`, and turn the system's error into the protocol's."""
    try:
        return action()
    except OSError as error:
        code = _CODES.get(error.errno or 0, Code.INTERNAL)
        if code is Code.NOT_FOUND:
            raise RpcError(code, f"path not found: {path}") from error
        raise RpcError(code, f"{error.strerror}: {path}") from error
