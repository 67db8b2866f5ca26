from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts.node import BuildStep
from appliance.cubelet.builds.steps import MAX_STEP_BYTES, Action, Copy, Env, Run, User, Workdir, parse_steps
from appliance.domain import build_steps
from appliance.domain.errors import InvalidRequest

HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("step", "means"),
    [
        (BuildStep(type="RUN", args=("make",)), Run("make", None)),
        (BuildStep(type="run", args=("make", "root")), Run("make", "root")),
        (BuildStep(type="RUN", args=("make", "")), Run("make", None)),
        (BuildStep(type="ENV", args=("A", "1", "B", "")), Env((("A", "1"), ("B", "")))),
        (BuildStep(type="WORKDIR", args=("/app",)), Workdir("/app")),
        (BuildStep(type="USER", args=("me",)), User("me", sudo=False)),
        (BuildStep(type="USER", args=("me", "true")), User("me", sudo=True)),
        (
            BuildStep(type="COPY", args=("src/*.py", "/app/", "", ""), files_hash=HASH),
            Copy("src/*.py", "/app/", HASH, None, None),
        ),
        (
            BuildStep(type="COPY", args=("a", "b", "me:staff", "0755"), files_hash=HASH),
            Copy("a", "b", HASH, "me:staff", "0755"),
        ),
    ],
)
def test_what_a_step_means(step: BuildStep, means: Action) -> None:
    (parsed,) = parse_steps((step,))
    assert parsed.action == means


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (BuildStep(type="EXPOSE", args=("80",)), "step 2 (EXPOSE): the type is none of"),
        (BuildStep(type="RUN"), "step 2 (RUN) takes a command and perhaps a user, not 0 arguments"),
        (BuildStep(type="RUN", args=("",)), "the command is empty"),
        (BuildStep(type="RUN", args=("a", "b:c")), "'b:c' cannot be a user's name"),
        (BuildStep(type="RUN", args=("a\0b",)), "NUL"),
        (BuildStep(type="RUN", args=("x" * (MAX_STEP_BYTES + 1),)), "more than"),
        (BuildStep(type="RUN", args=("a",), files_hash=HASH), "files_hash, which only COPY"),
        (BuildStep(type="ENV", args=("A",)), "pairs"),
        (BuildStep(type="ENV", args=("A=B", "1")), "'A=B' cannot be the name"),
        (BuildStep(type="WORKDIR", args=("a", "b")), "takes a path, not 2"),
        (BuildStep(type="USER", args=("a b",)), "'a b' cannot be a user's name"),
        (BuildStep(type="USER", args=("a", "perhaps")), "neither `true` nor `false`"),
        (BuildStep(type="COPY", args=("a", "b")), "needs files_hash"),
        (BuildStep(type="COPY", args=("a", "b"), files_hash="../x"), "needs files_hash"),
        (BuildStep(type="COPY", args=("/etc", "b"), files_hash=HASH), "does not lie within"),
        (BuildStep(type="COPY", args=("a/../../b", "b"), files_hash=HASH), "does not lie within"),
        (BuildStep(type="COPY", args=("a", "b", "x y"), files_hash=HASH), "owner 'x y'"),
        (BuildStep(type="COPY", args=("a", "b", "", "rwx"), files_hash=HASH), "mode 'rwx'"),
    ],
)
def test_a_step_that_means_nothing_is_named(step: BuildStep, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_steps((BuildStep(type="RUN", args=("true",)), step))
    assert "step 2" in refused.value.message
    assert says in refused.value.message


@given(source=st.lists(st.sampled_from(["", ".", "..", "a", "..b", "*"]), max_size=4).map("/".join))
def test_cubemaster_takes_the_sources_that_a_node_takes(source: str) -> None:
    def is_taken(parse: Callable[[], object]) -> bool:
        try:
            parse()
        except InvalidRequest:
            return False
        return True

    args = (source, "b")
    assert is_taken(lambda: build_steps.parse_step(1, "COPY", args, files_hash=HASH, force=False)) == is_taken(
        lambda: parse_steps((BuildStep(type="COPY", args=args, files_hash=HASH),))
    )
