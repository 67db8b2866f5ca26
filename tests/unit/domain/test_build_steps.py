from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.build_steps import BuildStep, StepType, parse_step, refuse_too_much
from appliance.domain.errors import InvalidRequest

HASH = "0" * 64


@pytest.mark.parametrize(
    ("kind", "args", "files_hash"),
    [
        ("RUN", ["ls"], None),
        ("RUN", ["ls", "root"], None),
        ("COPY", ["a", "b"], HASH),
        ("COPY", ["a", "b", "", ""], HASH),
        ("COPY", ["a/..b/c..", "c"], HASH),
        ("COPY", ["a", "b", "user:group", "0755"], HASH),
        ("ENV", ["A", ""], None),
        ("ENV", ["A", "1", "B", "2"], None),
        ("WORKDIR", ["/app"], None),
        ("USER", ["app", "true"], None),
    ],
)
def test_what_clients_send_is_a_step(kind: str, args: list[str], files_hash: str | None) -> None:
    step = parse_step(1, kind, args, files_hash=files_hash, force=True)
    assert step == BuildStep(StepType(kind), tuple(args), files_hash, force=True)


@pytest.mark.parametrize(
    ("kind", "args", "files_hash", "message"),
    [
        ("run", ["ls"], None, "no type that there is"),
        ("RUN", [], None, "takes a command"),
        ("RUN", ["a", "b", "c"], None, "has 3 arguments"),
        ("RUN", [" "], None, "must not be empty"),
        ("RUN", ["a\0b"], None, "NUL"),
        ("RUN", ["ls"], HASH, "must not have a filesHash"),
        ("COPY", ["a"], HASH, "has 1 arguments"),
        ("COPY", ["a", "b"], None, "must have a filesHash"),
        ("COPY", ["a", "b"], "0" * 63, "Invalid files hash"),
        ("COPY", ["a", "b"], "../" * 20 + "abcd", "Invalid files hash"),
        ("COPY", ["a", ""], HASH, "must not be empty"),
        ("COPY", ["a", "b", "", "u+x"], HASH, "not octal"),
        ("ENV", ["A"], None, "pairs"),
        ("ENV", [], None, "pairs"),
        ("ENV", ["A=B", "1"], None, "holds '='"),
        ("ENV", ["", "1"], None, "empty"),
        ("WORKDIR", ["/a", "/b"], None, "takes a path"),
        ("WORKDIR", [""], None, "must not be empty"),
        ("USER", [""], None, "cannot be a user's name"),
        ("USER", ["a b"], None, "cannot be a user's name"),
        ("USER", ["app", "yes"], None, "neither 'true' nor 'false'"),
        ("COPY", ["/etc", "b"], HASH, "does not lie within"),
        ("COPY", ["a/../..", "b"], HASH, "does not lie within"),
        ("COPY", ["a/../b", "c"], HASH, r"write it as a relative path without '\.\.'"),
        ("COPY", ["a", "b", "me you"], HASH, "not user or user:group"),
        ("RUN", ["x" * 102401], None, "bytes of arguments"),
    ],
)
def test_what_is_none_is_refused_by_its_number(
    kind: str, args: list[str], files_hash: str | None, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as refusal:
        parse_step(7, kind, args, files_hash=files_hash, force=False)
    assert refusal.value.message.startswith("step 7 (")


@given(kind=st.text(max_size=8) | st.sampled_from(list(StepType)), args=st.lists(st.text(max_size=8), max_size=5))
def test_anything_is_a_step_or_refused(kind: str, args: list[str]) -> None:
    try:
        step = parse_step(1, kind, args, files_hash=None, force=False)
    except InvalidRequest:
        return
    assert step.args == tuple(args)


def test_a_build_has_only_so_many_steps_and_characters() -> None:
    run = BuildStep(StepType.RUN, ("x",))
    refuse_too_much([run] * 1000)
    with pytest.raises(InvalidRequest, match="1001 steps"):
        refuse_too_much([run] * 1001)
    with pytest.raises(InvalidRequest, match="characters"):
        refuse_too_much([BuildStep(StepType.RUN, ("x" * 2**20,)), run])
