"""The Range header of a download."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """From `start` up to, not including, `end`."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.end - 1}/{size}"


class RangeNotSatisfiable(Exception):
    """The range lies outside the file."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the range asked for, cut to `size` bytes, or None for the whole file.

    Malformed headers and lists of ranges are ignored, as RFC 9110 allows.
    """
    match = _SINGLE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        wanted = int(last)
        if wanted == 0 or size == 0:
            raise RangeNotSatisfiable
        return ByteRange(max(size - wanted, 0), size)
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    if start >= size:
        raise RangeNotSatisfiable
    return ByteRange(start, end) if start < end else None
