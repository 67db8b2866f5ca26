"""From a command's output, which comes in pieces, to lines for a log: pure."""

from __future__ import annotations

import codecs

MAX_LINE = 2000
"""Characters of a line that are kept."""


class LineSplitter:
    """Takes bytes as they come and gives whole lines; a line that is longer than the log keeps is cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line = ""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        return self._split(self._decoder.decode(data))

    def end(self) -> list[str]:
        """Return what no newline followed."""
        lines = self._split(self._decoder.decode(b"", final=True))
        rest, self._line = _shown(self._line), ""
        return [*lines, rest] if rest else lines

    def _split(self, text: str) -> list[str]:
        *whole, rest = (self._line + text).split("\n")
        # Progress bars return to the start of one line for ever; of those only the newest state counts.
        self._line = rest.rpartition("\r")[2][: MAX_LINE + 1] if len(rest) > MAX_LINE else rest
        return [_shown(line) for line in whole]


def _shown(line: str) -> str:
    line = line.rstrip("\r").rpartition("\r")[2]
    return line if len(line) <= MAX_LINE else line[:MAX_LINE] + " ..."
