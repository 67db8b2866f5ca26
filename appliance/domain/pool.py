"""Which template's pool to fill next: decided from counts and times alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolState:
    """One template's pool on one node."""

    build_id: str
    waiting: int
    """Restored VMs ready to be claimed, and those being made."""
    last_claim: float
    """Monotonic seconds of the newest create from this template; minus infinity if there was none."""


def next_to_fill(pools: Sequence[PoolState], *, per_template: int, total: int) -> str | None:
    """Return the build whose pool should get one more VM, or None when all are as full as they may be.

    The emptiest pool comes first, so that no template waits behind another; among equals the one used last.
    """
    if sum(pool.waiting for pool in pools) >= total:
        return None
    wanting = [pool for pool in pools if pool.waiting < per_template]
    if not wanting:
        return None
    return min(wanting, key=lambda pool: (pool.waiting, -pool.last_claim, pool.build_id)).build_id


def to_evict(pools: Sequence[PoolState], *, total: int) -> str | None:
    """Return the build that should give up a waiting VM because the node holds more than `total`, or None.

    Happens when the limit was lowered, or when memory is needed for sandboxes (`total` is then less).
    """
    if sum(pool.waiting for pool in pools) <= total:
        return None
    return min((p for p in pools if p.waiting), key=lambda pool: (pool.last_claim, pool.build_id)).build_id
