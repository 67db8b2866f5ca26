"""The kernel's inotify, which Python has no module for."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

_HEADER = struct.Struct("iIII")
_READ_BYTES = 64 * 1024
_MAX_EVENTS = 16_384
"""fs.inotify.max_queued_events, unless someone changed it."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class Mask(IntFlag):
    """Bits of an event; see inotify(7)."""

    MODIFY = 0x0000_0002
    ATTRIB = 0x0000_0004
    MOVED_FROM = 0x0000_0040
    MOVED_TO = 0x0000_0080
    CREATE = 0x0000_0100
    DELETE = 0x0000_0200
    OVERFLOW = 0x0000_4000
    """Events were lost: nobody read them in time."""
    IGNORED = 0x0000_8000
    ONLYDIR = 0x0100_0000
    ISDIR = 0x4000_0000


WATCHED = Mask.MODIFY | Mask.ATTRIB | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.CREATE | Mask.DELETE | Mask.ONLYDIR


@dataclass(frozen=True, slots=True)
class RawEvent:
    """`name` is empty where the event is about the watched directory itself."""

    watch: int
    mask: Mask
    name: str


class Inotify:
    """One queue of events, non-blocking."""

    def __init__(self) -> None:
        self.descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise _last_error("inotify_init1")

    def add(self, directory: str) -> int:
        """Watch a directory and return the watch's number, the same one if it is watched already. Raise OSError."""
        watch: int = _libc.inotify_add_watch(self.descriptor, os.fsencode(directory), WATCHED)
        if watch < 0:
            raise _last_error(directory)
        return watch

    def remove(self, watch: int) -> None:
        """Stop watching. A watch that is gone is success."""
        _libc.inotify_rm_watch(self.descriptor, watch)

    def read(self) -> list[RawEvent]:
        """Return what the queue holds now. The kernel queues an event before the call that caused it returns.

        No more than the kernel's queue can hold at once, so that a busy writer does not keep the reader for ever.
        """
        events: list[RawEvent] = []
        while len(events) < _MAX_EVENTS:
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                break
            events.extend(parse_events(data))
        return events

    def close(self) -> None:
        os.close(self.descriptor)


def parse_events(data: bytes) -> Iterator[RawEvent]:
    offset = 0
    while offset < len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = data[offset : offset + length].rstrip(b"\0")
        offset += length
        yield RawEvent(watch, Mask(mask), os.fsdecode(name))


def _last_error(subject: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), subject)
