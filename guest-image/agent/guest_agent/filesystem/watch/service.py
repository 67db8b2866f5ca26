"""WatchDir, and the watchers that are polled: CreateWatcher, GetWatcherEvents, RemoveWatcher."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import itertools
import os
import stat
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from guest_agent.connect import Batch, Call
from guest_agent.context import Context
from guest_agent.envelope import JsonObject
from guest_agent.errors import Code, RpcError
from guest_agent.filesystem.entries import describe
from guest_agent.filesystem.watch.tree import Change, ChangesLost, Kind, TreeWatch

MAX_BUFFERED_EVENTS = 20_000
"""Of a watcher nobody polls; its next poll fails if there were more."""
MAX_WATCHERS = 100
"""The kernel gives a user 128 of what they are made of."""
_DESCRIBED = {Kind.CREATE, Kind.WRITE, Kind.CHMOD}
_NETWORK_FILE_SYSTEMS = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x01021997: "9p",
    0x00C36400: "ceph",
}
"""Magic numbers of statfs(2). Changes made elsewhere on them give no events."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Request:
    root: str
    recursive: bool
    include_entry: bool


@dataclass(slots=True)
class _Watcher:
    """A polled watcher: events wait in `pending`."""

    tree: TreeWatch
    include_entry: bool
    pending: deque[Change] = field(default_factory=deque)
    lost: bool = False

    def gather(self) -> None:
        """Take what has happened; beyond what is kept, only that something was lost."""
        try:
            changes = self.tree.collect()
        except ChangesLost:
            self.lost = True
            return
        room = MAX_BUFFERED_EVENTS - len(self.pending)
        self.pending.extend(changes[:room])
        self.lost = self.lost or len(changes) > room

    def take(self) -> list[Change]:
        """Return what was gathered and begin anew. Raise RpcError, once, where something was lost."""
        changes = list(self.pending)
        self.pending.clear()
        if self.lost:
            self.lost = False
            raise _changes_lost()
        return changes


class WatchService:
    """Owns the polled watchers; a streamed one lives as long as its stream."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watchers: dict[str, _Watcher] = {}
        self._numbers = itertools.count(1)

    async def watch_dir(self, call: Call, message: JsonObject) -> AsyncGenerator[Batch, None]:
        request = self._parse(call, message)
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        with closing(_open(request)) as tree:
            loop.add_reader(tree.descriptor, changed.set)
            try:
                yield [{"start": {}}]
                while True:
                    try:
                        async with asyncio.timeout(call.keepalive.total_seconds()):
                            await changed.wait()
                    except TimeoutError:
                        yield [{"keepalive": {}}]
                        continue
                    changed.clear()
                    try:
                        changes = tree.collect()
                    except ChangesLost as error:
                        raise _changes_lost() from error
                    if changes:
                        yield [{"filesystem": self._encode(tree, change, request.include_entry)} for change in changes]
            finally:
                loop.remove_reader(tree.descriptor)

    async def create_watcher(self, call: Call, message: JsonObject) -> JsonObject:
        if len(self._watchers) >= MAX_WATCHERS:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED, f"there are {MAX_WATCHERS} watchers already: remove those you no longer poll"
            )
        request = self._parse(call, message)
        watcher = _Watcher(_open(request), request.include_entry)
        watcher_id = f"w{next(self._numbers)}"
        self._watchers[watcher_id] = watcher
        # Read as they come: new directories of a recursive watch must be watched before more happens in them.
        asyncio.get_running_loop().add_reader(watcher.tree.descriptor, watcher.gather)
        return {"watcherId": watcher_id}

    async def get_watcher_events(self, _call: Call, message: JsonObject) -> JsonObject:
        watcher = self._find(message)
        # What has happened before this call must be in its answer, whether or not the loop has seen it.
        watcher.gather()
        return {"events": [self._encode(watcher.tree, change, watcher.include_entry) for change in watcher.take()]}

    async def remove_watcher(self, _call: Call, message: JsonObject) -> JsonObject:
        watcher = self._find(message)
        del self._watchers[_watcher_id(message)]
        asyncio.get_running_loop().remove_reader(watcher.tree.descriptor)
        watcher.tree.close()
        return {}

    def _find(self, message: JsonObject) -> _Watcher:
        watcher_id = _watcher_id(message)
        watcher = self._watchers.get(watcher_id)
        if watcher is None:
            raise RpcError(Code.NOT_FOUND, f"watcher with id {watcher_id} not found")
        return watcher

    def _parse(self, call: Call, message: JsonObject) -> _Request:
        path = message.get("path", "")
        if not isinstance(path, str) or "\0" in path:
            raise RpcError(Code.INVALID_ARGUMENT, "invalid value of field 'path'")
        root = self._context.path(path, self._context.user(call.user_name))
        _require_directory(root)
        if not _flag(message, "allowNetworkMounts", "allow_network_mounts"):
            _refuse_network_file_system(root)
        return _Request(
            root,
            recursive=_flag(message, "recursive"),
            include_entry=_flag(message, "includeEntry", "include_entry"),
        )

    def _encode(self, tree: TreeWatch, change: Change, include_entry: bool) -> JsonObject:
        event: JsonObject = {"name": change.name, "type": change.kind.value}
        if include_entry and change.kind in _DESCRIBED:
            # It may be gone again, and is then told of without an entry.
            with suppress(OSError):
                event["entry"] = describe(f"{tree.root}/{change.name}", self._context.users).encode()
        return event


def _watcher_id(message: JsonObject) -> str:
    return str(message.get("watcherId", message.get("watcher_id", "")))


def _flag(message: JsonObject, *names: str) -> bool:
    return any(message.get(name) is True for name in names)


def _open(request: _Request) -> TreeWatch:
    try:
        return TreeWatch(request.root, recursive=request.recursive)
    except OSError as error:
        # ENOSPC: the limit of watches; EMFILE: that of inotify instances.
        code = Code.RESOURCE_EXHAUSTED if error.errno in (errno.ENOSPC, errno.EMFILE) else Code.INTERNAL
        raise RpcError(code, f"error watching '{request.root}': {error.strerror}") from error


def _changes_lost() -> RpcError:
    return RpcError(Code.RESOURCE_EXHAUSTED, "more happened than could be kept: some events are lost")


def _require_directory(path: str) -> None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - plain strings on this path
    except OSError as error:
        raise RpcError(Code.NOT_FOUND, f"path not found: {path}") from error
    if not stat.S_ISDIR(mode):
        raise RpcError(Code.INVALID_ARGUMENT, f"path is not a directory: {path}")


def _refuse_network_file_system(path: str) -> None:
    # Large enough for any struct statfs; its first member is the type, a long.
    buffer = (ctypes.c_ulong * 64)()
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return
    name = _NETWORK_FILE_SYSTEMS.get(buffer[0] & 0xFFFFFFFF)
    if name is not None:
        raise RpcError(Code.INVALID_ARGUMENT, f"cannot watch path on network filesystem ({name}): {path}")
