"""The latest records, numbered, within a fixed amount of memory.

Adding one costs next to nothing: it is done for each piece of output. What a record looks like to a reader is worked
out when the node asks, every few seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from guest_agent.process.events import Channel

MAX_BYTES = 512 * 1024
MAX_RECORDS = 4096
MAX_PIECE_BYTES = 8 * 1024
"""Of one piece of output; the rest of it is only counted."""
_OVERHEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Note:
    """Something said by the agent."""

    level: str
    logger: str
    message: str
    fields: Mapping[str, str]

    @property
    def size(self) -> int:
        return len(self.message) + sum(len(name) + len(value) for name, value in self.fields.items())


@dataclass(frozen=True, slots=True)
class Piece:
    """Output of a process as it was read."""

    pid: int
    channel: Channel
    data: bytes
    cut: int
    """Bytes that followed and were not kept."""

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Record:
    number: int
    at_ns: int
    content: Note | Piece


class LogRing:
    """Keeps the latest records. `epoch` tells a reader whether numbers are comparable with those it has seen."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self.epoch = f"{clock():x}"
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._next = 0

    @property
    def next_number(self) -> int:
        return self._next

    def add(self, content: Note | Piece) -> None:
        self._records.append(Record(self._next, self._clock(), content))
        self._next += 1
        self._bytes += content.size + _OVERHEAD_BYTES
        while self._bytes > MAX_BYTES or len(self._records) > MAX_RECORDS:
            self._bytes -= self._records.popleft().content.size + _OVERHEAD_BYTES

    def note(self, level: str, logger: str, message: str, **fields: str) -> None:
        self.add(Note(level, logger, message, fields))

    def piece(self, pid: int, channel: Channel, data: bytes) -> None:
        kept = data[:MAX_PIECE_BYTES]
        self.add(Piece(pid, channel, kept, len(data) - len(kept)))

    def clear(self) -> None:
        """Forget everything: the machine is another sandbox from now on."""
        self._records.clear()
        self._bytes = 0

    def since(self, number: int) -> Iterator[Record]:
        """Yield the records from `number` on that are still there."""
        return (record for record in tuple(self._records) if record.number >= number)
