"""Who goes first when memory runs out: the programs, never the agent.

A program that got its score only after it was started could have started another one by then, which would keep the
agent's for good. So the agent takes the programs' score for the length of a spawn, and what it starts inherits it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

_PROGRAMS_SCORE = b"100"


@contextmanager
def dispensable() -> Iterator[None]:
    """Start programs within this block. Must be entered and left as root; must not await."""
    own = own_score()
    if own is None:
        yield
        return
    descriptor, score = own
    # Without CAP_SYS_RESOURCE, as in a container, the kernel refuses to take the score back; then it is left alone.
    os.pwrite(descriptor, _PROGRAMS_SCORE, 0)
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.pwrite(descriptor, score, 0)


@cache
def own_score() -> tuple[int, bytes] | None:
    """Return the agent's score and where to write it, opened once; None where there is no /proc."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    return descriptor, os.pread(descriptor, 16, 0).strip()
