import datetime
import math
from decimal import Decimal
from pathlib import Path

import pytest

from kernel_display.values import as_number, plain


@pytest.mark.parametrize(
    ("value", "converted"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (1.5, 1.5),
        (math.nan, None),
        (math.inf, None),
        ("a", "a"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.UTC), "2024-01-02T03:04:00+00:00"),
        ({1: (2, math.nan)}, {"1": [2, None]}),
        (Decimal("1.10"), "1.10"),
        (Path("/a"), "/a"),
    ],
)
def test_values_become_what_json_has(value: object, converted: object) -> None:
    assert plain(value) == converted


def test_numbers_of_charts_have_a_fraction() -> None:
    assert isinstance(as_number(1), float)
    assert as_number("1") == "1"
