from __future__ import annotations

from appliance.hypervisor.page_file import batches
from appliance.hypervisor.private_memory import PageRun


def test_runs_are_grouped_up_to_the_size_of_the_buffer() -> None:
    runs = [PageRun(0, 1), PageRun(5, 2), PageRun(9, 1)]
    assert list(batches(runs, 3)) == [[PageRun(0, 1), PageRun(5, 2)], [PageRun(9, 1)]]


def test_run_that_is_larger_than_the_buffer_is_split() -> None:
    runs = [PageRun(7, 1), PageRun(10, 5)]
    assert list(batches(runs, 2)) == [
        [PageRun(7, 1), PageRun(10, 1)],
        [PageRun(11, 2)],
        [PageRun(13, 2)],
    ]


def test_nothing_changed_is_no_group() -> None:
    assert list(batches([], 2)) == []
