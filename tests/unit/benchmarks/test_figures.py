from __future__ import annotations

import math

from tests.benchmarks import keeping
from tests.benchmarks.figures import Series, percentile, ratio, total
from tests.benchmarks.report import TARGETS, document


def series(*blocks: list[float]) -> Series:
    return Series("one", [list(block) for block in blocks])


def test_percentile_is_a_measured_value() -> None:
    values = [float(value) for value in range(1, 21)]
    assert percentile(values, 95) == 19
    assert percentile(values, 100) == 20
    assert percentile([7.0], 95) == 7
    assert math.isnan(percentile([], 50))


def test_ratio_compares_within_blocks_so_that_a_busy_one_does_not_count() -> None:
    creates, floors = series([20], [200], [22]), series([10], [100], [10])
    assert ratio(creates, floors) == 2


def test_ratio_of_a_high_percentile() -> None:
    assert ratio(series([10, 20, 90]), series([10, 10, 10]), above_percent=95) == 9


def test_blocks_that_lack_either_side_are_left_out() -> None:
    assert ratio(series([], [30]), series([10], [10])) == 3
    assert math.isnan(ratio(series([]), series([10])))


def test_total_is_of_the_medians_of_each_block() -> None:
    pauses, creates = series([10, 20, 90], [30]), series([100], [200])
    assert total((1, pauses), (1.5, creates), constant=5).blocks == [[175], [335]]


def test_total_of_a_block_that_lacks_a_term_is_left_out() -> None:
    assert total((1, series([1], [2])), (1, series([], [3]))).blocks == [[], [5]]


def test_document_has_every_figure_and_null_for_what_was_not_measured() -> None:
    names = ("cold_boot", "floor_restore", "floor_claim", "create_pool_hit", "create_pool_hit_c5", "create_on_demand")
    measured = {name: series([4.0, 5.0, 6.0]) for name in (*names, "full_save", *keeping.NAMES)}
    measured |= {name: series([]) for name in ("first_exec", "warm_exec")}
    figures = document(measured, {"failures": 0})
    assert figures["create_pool_hit_p50_ms"] == 5
    assert figures["cold_boot_ms"] == 5
    assert figures["changed_p50_mib"] == 5
    assert figures["ratio_fork_to_pause_and_on_demand"] == round(5 / (5 + 1.2 * 5), 3)
    assert figures["first_exec_p50_ms"] is None
    assert figures["ratio_first_exec_to_warm_exec_met"] is False
    assert figures["failures"] == 0
    assert {target.key for target in TARGETS} <= figures.keys()
