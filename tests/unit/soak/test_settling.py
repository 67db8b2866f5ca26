from __future__ import annotations

import pytest

from tests.support.pause_cycles import Cycle, assert_settles


def cycles(*ram_mib: float) -> list[Cycle]:
    return [Cycle(held_mib=mib, kept_mib=mib, ram_mib=mib, pause_s=0.1, resume_s=0.4) for mib in ram_mib]


def test_guest_that_warms_up_settles() -> None:
    assert_settles(cycles(*(15 - 6 * 0.97**number for number in range(200))))


def test_what_every_cycle_adds_is_found_beside_what_warms_up() -> None:
    with pytest.raises(AssertionError, match=r"at first and 3[.]1 in the end"):
        assert_settles(cycles(*(15 - 6 * 0.97**number + 0.06 * number for number in range(200))))
