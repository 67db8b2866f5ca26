from __future__ import annotations

import pytest

from appliance.cubelet.builds.expansion import expand, has_references
from appliance.domain.errors import InvalidRequest

VARIABLES = {"HOME": "/home/user", "A": "1", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$HOME/bin", "/home/user/bin"),
        ("${A}2$A", "121"),
        ("$MISSING.", "."),
        ("${EMPTY:-word} ${A:-word}", "word 1"),
        ("[${EMPTY:+word}] ${A:+word}", "[] word"),
        ("$(id) `id` \\ 5$ $1", "$(id) `id` \\ 5$ $1"),
    ],
)
def test_variables_and_nothing_else_are_replaced(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


def test_values_are_not_expanded_again() -> None:
    assert expand("$A", {"A": "$B", "B": "no"}) == "$B"


@pytest.mark.parametrize("text", ["${A%x}", "${", "${A:=b}"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    assert has_references(text)
    with pytest.raises(InvalidRequest, match="only a name"):
        expand(text, VARIABLES)
