"""Which pool is filled and which gives way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.pool import PoolState, next_to_fill, to_evict

NEVER = float("-inf")


def test_the_emptiest_pool_is_filled_first() -> None:
    pools = [PoolState("a", 2, 100.0), PoolState("b", 0, NEVER)]
    assert next_to_fill(pools, per_template=4, total=16) == "b"


def test_among_equals_the_one_used_last_is_filled_first() -> None:
    pools = [PoolState("a", 1, 5.0), PoolState("b", 1, 9.0)]
    assert next_to_fill(pools, per_template=4, total=16) == "b"


def test_nothing_is_filled_beyond_either_limit() -> None:
    assert next_to_fill([PoolState("a", 4, 0.0)], per_template=4, total=16) is None
    assert next_to_fill([PoolState("a", 1, 0.0)], per_template=4, total=1) is None
    assert next_to_fill([], per_template=4, total=16) is None


def test_the_template_unused_for_longest_gives_way() -> None:
    pools = [PoolState("a", 2, 50.0), PoolState("b", 2, 10.0), PoolState("c", 0, NEVER)]
    assert to_evict(pools, total=3) == "b"
    assert to_evict(pools, total=4) is None


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1e6)), max_size=6),
    st.integers(0, 5),
    st.integers(0, 20),
)
def test_filling_and_evicting_settle_within_the_limits(
    start: list[tuple[int, float]], per_template: int, total: int
) -> None:
    pools = {str(n): PoolState(str(n), waiting, used) for n, (waiting, used) in enumerate(start)}

    def change(build: str, by: int) -> None:
        old = pools[build]
        pools[build] = PoolState(build, old.waiting + by, old.last_claim)

    while (evict := to_evict(list(pools.values()), total=total)) is not None:
        change(evict, -1)
    while (fill := next_to_fill(list(pools.values()), per_template=per_template, total=total)) is not None:
        change(fill, +1)
    held = sum(pool.waiting for pool in pools.values())
    assert held <= total
    assert to_evict(list(pools.values()), total=total) is None
    assert held == total or all(pool.waiting >= per_template for pool in pools.values())
