from __future__ import annotations

from datetime import timedelta

import pytest

from appliance.cli.output import mebibytes, span


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0s"), (0, "0s"), (59.9, "59s"), (64, "1m04s"), (3599, "59m59s"), (3720, "1h02m")]
)
def test_spans_are_short(seconds: float, shown: str) -> None:
    assert span(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(("size", "shown"), [(512, "512M"), (1024, "1G"), (1536, "1.5G"), (1000, "1000M")])
def test_sizes_are_short_and_exact(size: int, shown: str) -> None:
    assert mebibytes(size) == shown
