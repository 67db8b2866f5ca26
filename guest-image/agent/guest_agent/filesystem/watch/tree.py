"""Watching one directory, or all directories below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from guest_agent.filesystem.watch.inotify import Inotify, Mask, RawEvent


class Kind(StrEnum):
    CREATE = "EVENT_TYPE_CREATE"
    WRITE = "EVENT_TYPE_WRITE"
    REMOVE = "EVENT_TYPE_REMOVE"
    RENAME = "EVENT_TYPE_RENAME"
    """The name a file was moved away from; the name it was moved to is a CREATE."""
    CHMOD = "EVENT_TYPE_CHMOD"


_KINDS = {
    Mask.CREATE: Kind.CREATE,
    Mask.MOVED_TO: Kind.CREATE,
    Mask.MOVED_FROM: Kind.RENAME,
    Mask.ATTRIB: Kind.CHMOD,
    Mask.MODIFY: Kind.WRITE,
    Mask.DELETE: Kind.REMOVE,
}


@dataclass(frozen=True, slots=True)
class Change:
    """`name` is relative to the watched directory."""

    name: str
    kind: Kind


class ChangesLost(Exception):
    """More happened than the kernel or the watcher kept, or watched directories ran out."""


class TreeWatch:
    """Collects what changes below `root` from the moment it exists until it is closed."""

    def __init__(self, root: str, *, recursive: bool) -> None:
        """Begin to watch. Raise OSError if `root` is not a directory."""
        self.root = root
        self._recursive = recursive
        self._inotify = Inotify()
        self._directories: dict[int, str] = {}
        # Names that a scan has reported: an event of their creation may still be in the queue.
        self._reported: set[str] = set()
        try:
            self._directories[self._inotify.add(root)] = ""
            if recursive:
                for _ in self._add_below(""):
                    pass
        except BaseException:
            self._inotify.close()
            raise

    @property
    def descriptor(self) -> int:
        """Readable when there may be changes to collect."""
        return self._inotify.descriptor

    def collect(self) -> list[Change]:
        """Return the changes since the last call, in order. Never blocks. Raise ChangesLost where some are missing."""
        changes = [change for event in self._inotify.read() for change in self._changes(event)]
        if changes == []:
            self._reported.clear()
        return changes

    def close(self) -> None:
        self._inotify.close()

    def _changes(self, event: RawEvent) -> Iterator[Change]:
        if event.mask & Mask.OVERFLOW:
            raise ChangesLost
        directory = self._directories.get(event.watch)
        if directory is None:
            return
        if event.mask & Mask.IGNORED:
            del self._directories[event.watch]
            return
        if not event.name:
            # The directory itself: its parent's watch tells the same under its name.
            return
        name = f"{directory}/{event.name}" if directory else event.name
        kind = next((kind for mask, kind in _KINDS.items() if event.mask & mask), None)
        if kind is None:
            return
        if kind is Kind.CREATE and name in self._reported:
            self._reported.discard(name)
            return
        yield Change(name, kind)
        if self._recursive and event.mask & Mask.ISDIR:
            yield from self._follow_directory(name, kind)

    def _follow_directory(self, name: str, kind: Kind) -> Iterator[Change]:
        if kind is Kind.CREATE:
            # Its content may have been made before it was watched, and gives no event then.
            try:
                for found in self._add(name):
                    self._reported.add(found)
                    yield Change(found, Kind.CREATE)
            except OSError as error:
                raise ChangesLost from error
        elif kind is Kind.RENAME:
            self._forget(name)

    def _add(self, name: str) -> Iterator[str]:
        """Watch a directory and those below it; yield the names that are in them. What vanished is left out.

        Raises OSError where the kernel takes no more watches.
        """
        try:
            self._directories[self._inotify.add(f"{self.root}/{name}")] = name
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        yield from self._add_below(name)

    def _add_below(self, name: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(f"{self.root}/{name}"), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            path = f"{name}/{entry.name}" if name else entry.name
            yield path
            if entry.is_dir(follow_symlinks=False):
                yield from self._add(path)

    def _forget(self, name: str) -> None:
        """Stop watching a directory that was moved away, and those below it: their names have become wrong."""
        below = name + "/"
        for watch, directory in list(self._directories.items()):
            if directory == name or directory.startswith(below):
                del self._directories[watch]
                self._inotify.remove(watch)
