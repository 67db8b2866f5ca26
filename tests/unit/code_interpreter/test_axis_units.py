import pytest

from kernel_display.axis import unit_in


@pytest.mark.parametrize(
    ("label", "unit"),
    [
        ("Time (s)", "s"),
        ("Speed [m/s]", "m/s"),
        ("f(x)", None),
        ("Count", None),
        ("", None),
        (None, None),
    ],
)
def test_the_unit_is_what_stands_in_brackets(label: str | None, unit: str | None) -> None:
    assert unit_in(label) == unit
