from __future__ import annotations

from guest_agent.identity.clock import TOLERANCE_NS, correction

NOW = 1_700_000_000_000_000_000


def test_a_clock_within_the_tolerance_is_left_alone() -> None:
    assert correction(NOW, NOW) is None
    assert correction(NOW, NOW + TOLERANCE_NS) is None
    assert correction(NOW, NOW - TOLERANCE_NS) is None


def test_a_clock_that_is_off_either_way_is_set_to_the_nodes() -> None:
    for node in (NOW + TOLERANCE_NS + 1, NOW - TOLERANCE_NS - 1, NOW + 86_400_000_000_000):
        assert correction(NOW, node) == node
