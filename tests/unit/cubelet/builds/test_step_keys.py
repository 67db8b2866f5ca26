from __future__ import annotations

import pytest

from appliance.contracts.node import BuildStep
from appliance.cubelet.builds.step_keys import is_worth_keeping, reusable_steps, step_keys
from appliance.cubelet.builds.steps import Step, parse_steps

RUN, ENV = BuildStep(type="RUN", args=("make",)), BuildStep(type="ENV", args=("A", "1"))
COPY = BuildStep(type="COPY", args=("a", "b"), files_hash="0" * 64)


def _keys(
    *steps: BuildStep, template: str = "t", origin: tuple[str, ...] = ("image", "x"), disk: int = 256
) -> list[str]:
    return list(step_keys(template, origin, disk, parse_steps(steps)))


def _parsed(*steps: BuildStep) -> tuple[Step, ...]:
    return parse_steps(steps)


def test_the_same_steps_have_the_same_keys_up_to_where_they_differ() -> None:
    first, second = _keys(RUN, ENV, COPY), _keys(RUN, ENV, RUN)
    assert len(set(first)) == 4
    assert first[:3] == second[:3]
    assert first[3] != second[3]


@pytest.mark.parametrize(
    "other",
    [
        _keys(RUN, template="another"),
        _keys(RUN, origin=("build", "x")),
        _keys(RUN, disk=512),
        _keys(BuildStep(type="RUN", args=("make", "root"))),
        _keys(BuildStep(type="WORKDIR", args=("make",))),
    ],
)
def test_whatever_changes_the_result_changes_the_key(other: list[str]) -> None:
    assert other[-1] != _keys(RUN)[-1]


def test_other_files_are_another_step() -> None:
    changed = COPY.model_copy(update={"files_hash": "1" * 64})
    assert _keys(COPY)[-1] != _keys(changed)[-1]


def test_forcing_a_step_does_not_change_its_key() -> None:
    assert _keys(RUN.model_copy(update={"force": True})) == _keys(RUN)


def test_the_longest_prefix_that_is_kept_is_reused() -> None:
    steps = _parsed(RUN, ENV, COPY)
    keys = _keys(RUN, ENV, COPY)
    assert reusable_steps(keys, steps, set(keys).__contains__, force=False) == 3
    assert reusable_steps(keys, steps, {keys[0], keys[1]}.__contains__, force=False) == 1
    assert reusable_steps(keys, steps, {keys[0]}.__contains__, force=False) == 0
    assert reusable_steps(keys, steps, set().__contains__, force=False) is None


def test_what_is_forced_and_all_after_it_is_run_again() -> None:
    forced = _parsed(RUN, COPY.model_copy(update={"force": True}), ENV)
    keys = _keys(RUN, COPY, ENV)
    assert reusable_steps(keys, forced, set(keys).__contains__, force=False) == 1
    assert reusable_steps(keys, forced, set(keys).__contains__, force=True) is None


def test_variables_alone_leave_nothing_on_the_disk() -> None:
    assert [is_worth_keeping(step) for step in _parsed(RUN, ENV, COPY)] == [True, False, True]
