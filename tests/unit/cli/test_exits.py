from __future__ import annotations

import errno

import pytest

from appliance.cli.exits import Exit, exit_code, explain
from appliance.domain import errors

ENDPOINT = "unix:///run/cube/cube-master/api.sock"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("x"), Exit.USAGE),
        (errors.TemplateNotFound("x"), Exit.NOT_FOUND),
        (errors.DeadlineExceeded("x", 1), Exit.TIMEOUT),
        (errors.NoCapacity("x"), Exit.UNAVAILABLE),
        (errors.Conflict("x"), Exit.FAILED),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: errors.CubeError, code: Exit) -> None:
    assert exit_code(error) is code


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "group cube"), (errno.ENOENT, "systemctl status cube-master"), (errno.ECONNREFUSED, "--endpoint")],
)
def test_not_reaching_cubemaster_says_what_to_do(number: int, advice: str) -> None:
    error = errors.Unavailable("cube-master does not answer")
    error.__cause__ = OSError(number, "no")
    assert advice in explain(error, endpoint=ENDPOINT)


def test_an_error_of_the_service_speaks_for_itself() -> None:
    assert explain(errors.Conflict("in use"), endpoint=ENDPOINT) == "in use"
