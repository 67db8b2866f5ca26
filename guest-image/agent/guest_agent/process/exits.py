"""How orphans ended: only their parent learns it, which is process 1, and it writes it down for the agent.

The file is a ring of fixed records: pid, status of waitpid, and when, in milliseconds of the monotonic clock.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

EXITS = Path("/run/cube/exits")
RECORD = struct.Struct("=iiq")


def monotonic_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000


def find_exit(pid: int, *, since_ms: int, path: Path = EXITS) -> int | None:
    """Return the status with which `pid` was reaped after `since_ms`, or None if that is not written (yet).

    Pids are used again: an older record is another process's. Raises FileNotFoundError where process 1 is not ours.
    """
    content = path.read_bytes()
    whole = content[: len(content) // RECORD.size * RECORD.size]
    found = [record for record in RECORD.iter_unpack(whole) if record[0] == pid and record[2] >= since_ms]
    return max(found, key=lambda record: record[2])[1] if found else None
