"""The wall clock. A restored machine wakes up at the time it was saved."""

from __future__ import annotations

import time

TOLERANCE_NS = 50_000_000
"""Half of what may go unnoticed by TLS and token lifetimes; also absorbs the time /init is on the way."""


def correction(now_ns: int, node_ns: int) -> int | None:
    """Return what the clock should be set to, in Unix nanoseconds, or None if it is right enough."""
    return node_ns if abs(node_ns - now_ns) > TOLERANCE_NS else None


def adjust(node_ns: int) -> None:
    """Set the clock to the node's unless it is right. Needs CAP_SYS_TIME."""
    target = correction(time.time_ns(), node_ns)
    if target is not None:
        time.clock_settime_ns(time.CLOCK_REALTIME, target)
