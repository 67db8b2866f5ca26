"""What the node gets: entries of one line each, made of the records since it last asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from guest_agent.logs.process_log import LOGGER
from guest_agent.logs.ring import LogRing, Note, Piece, Record
from guest_agent.process.events import Channel

MAX_PAGE_BYTES = 192 * 1024
MAX_LINE = 4096
_MAX_LINES = 200
"""Of one piece of output."""
_OVERHEAD_BYTES = 160
Entry = dict[str, Any]


def page(ring: LogRing, epoch: str, number: int) -> dict[str, Any]:
    """Return entries from record `number` of `epoch` on, and where the next page begins.

    Of another epoch, that of an agent that ended, the number means nothing: the page begins with the first record.
    """
    first = number if epoch == ring.epoch else 0
    taken = list(_fitting(ring.since(first)))
    after = taken[-1].number + 1 if taken else ring.next_number
    missed = taken[0].number - first if taken and epoch == ring.epoch else 0
    return {"epoch": ring.epoch, "next": after, "missed": missed, "entries": list(entries(taken))}


def _fitting(records: Iterator[Record]) -> Iterator[Record]:
    size = 0
    for record in records:
        size += record.content.size + _OVERHEAD_BYTES
        yield record
        if size > MAX_PAGE_BYTES:
            return


def entries(records: Iterable[Record]) -> Iterator[Entry]:
    """Yield entries in order. A line that was written in parts is put together."""
    begun: dict[tuple[int, Channel], tuple[int, bytes]] = {}
    for record in records:
        content = record.content
        if isinstance(content, Note):
            for source in [source for source in begun if str(source[0]) == content.fields.get("pid")]:
                at_ns, rest = begun.pop(source)
                yield from _line(at_ns, source, rest)
            yield _entry(record.at_ns, content.level, content.logger, content.message, dict(content.fields))
        else:
            yield from _lines(record.at_ns, content, begun)
    for source, (at_ns, rest) in begun.items():
        yield from _line(at_ns, source, rest)


def _lines(at_ns: int, piece: Piece, begun: dict[tuple[int, Channel], tuple[int, bytes]]) -> Iterator[Entry]:
    source = (piece.pid, piece.channel)
    begun_ns, before = begun.pop(source, (at_ns, b""))
    *whole, rest = (before + piece.data).split(b"\n")
    for line in whole[:_MAX_LINES]:
        yield from _line(begun_ns, source, line)
        begun_ns = at_ns
    left_out = piece.cut + sum(len(line) + 1 for line in whole[_MAX_LINES:])
    if left_out:
        fields = {"pid": str(piece.pid), "event_type": piece.channel.value}
        yield _entry(at_ns, "warn", LOGGER, f"{left_out} bytes of output are left out here", fields)
    if rest and len(rest) > MAX_LINE:
        yield from _line(begun_ns, source, rest)
    elif rest:
        begun[source] = (begun_ns, rest)


def _line(at_ns: int, source: tuple[int, Channel], line: bytes) -> Iterator[Entry]:
    """Yield a line as one entry, or as several where it is too long for one."""
    pid, channel = source
    level = "debug" if channel is Channel.PTY else "info"
    for start in range(0, max(len(line), 1), MAX_LINE):
        text = line[start : start + MAX_LINE].decode("utf-8", "replace").rstrip("\r")
        yield _entry(at_ns, level, LOGGER, text, {"pid": str(pid), "event_type": channel.value})


def _entry(at_ns: int, level: str, logger: str, message: str, fields: dict[str, str]) -> Entry:
    return {"at_ns": at_ns, "level": level, "logger": logger, "message": message, "fields": fields}
