from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubemaster.services.sealing import SealBroken, Sealer, rules_place, secret_place

KEY = "ab" * 32
SEALER = Sealer(KEY)


@given(st.text())
def test_what_was_sealed_opens_in_its_place(value: str) -> None:
    sealed = SEALER.seal(value, place="sec_1/1")
    assert SEALER.open(sealed, place="sec_1/1") == value


def test_nothing_of_the_value_shows_and_no_two_seals_are_alike() -> None:
    first = SEALER.seal("hunter2", place="sec_1/1")
    assert b"hunter2" not in first
    assert first != SEALER.seal("hunter2", place="sec_1/1")


def test_it_opens_nowhere_else_and_not_once_changed() -> None:
    sealed = SEALER.seal("hunter2", place="sec_1/1")
    for broken, place, sealer in (
        (sealed, "sec_2/1", SEALER),
        (sealed, "sec_1/2", SEALER),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), "sec_1/1", SEALER),
        (sealed[:10], "sec_1/1", SEALER),
        (b"\x02" + sealed[1:], "sec_1/1", SEALER),
        (sealed, "sec_1/1", Sealer("cd" * 32)),
    ):
        with pytest.raises(SealBroken):
            sealer.open(broken, place=place)


def test_no_two_kinds_of_places_are_alike() -> None:
    assert secret_place("sec_1", 1) == "sec_1/1"
    assert rules_place("sec_1/1") != secret_place("sec_1", 1)


@pytest.mark.parametrize("key", ["", "ab" * 16, "xy" * 32])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"bytes|hex"):
        Sealer(key)
