from __future__ import annotations

import pytest

from appliance.cubelet.builds.context import StepContext
from appliance.cubelet.builds.copying import plan_copy, without_glob
from appliance.cubelet.builds.steps import Copy

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("app.py", "app.py"),
        ("./src/app.py", "src/app.py"),
        ("src/", "src"),
        (".", ""),
        ("*.py", ""),
        ("src/**/*.py", "src"),
        ("src/[ab]/c", "src"),
        ("src/{a,b}", "src"),
    ],
)
def test_patterns_are_the_clients_business(source: str, kept: str) -> None:
    assert without_glob(source) == kept


@pytest.mark.parametrize(
    ("destination", "workdir", "becomes"),
    [
        ("/app/x", "/home/user", "/app/x"),
        ("x", "/home/user", "/home/user/x"),
        ("x/", "/", "/x/"),
        (".", "/srv", "/srv/."),
    ],
)
def test_a_relative_destination_lies_in_the_working_directory(destination: str, workdir: str, becomes: str) -> None:
    step = Copy("a", destination, HASH, None, None)
    assert plan_copy(step, destination, StepContext(workdir=workdir)).destination == becomes


@pytest.mark.parametrize(
    ("owner", "becomes"), [(None, "worker:worker"), ("root", "root:root"), ("root:staff", "root:staff")]
)
def test_the_owner_is_the_current_user_unless_named(owner: str | None, becomes: str) -> None:
    plan = plan_copy(Copy("a", "b", HASH, owner, None), "b", StepContext(user="worker"))
    assert plan.owner == becomes


def test_paths_are_arguments_of_the_scripts_never_text_in_them() -> None:
    step = Copy("$(reboot)", "/x", HASH, None, None)
    _, _, text, *arguments = plan_copy(step, "/x; reboot", StepContext()).place()
    assert "reboot" not in text
    assert f"/tmp/.copy-{HASH}/$(reboot)" in arguments
    assert "/x; reboot" in arguments
