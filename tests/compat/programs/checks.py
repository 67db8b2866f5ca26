"""Checks of one client: each runs on its own, and says on one JSON line how it went.

A release that has no such call is `absent`, which the matrix shows: nothing is left out in silence.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable

_CHECKS: list[Callable[[], None]] = []


class AbsentFromThisRelease(Exception):
    """The client under test has no such call."""


def check(function: Callable[[], None]) -> Callable[[], None]:
    _CHECKS.append(function)
    return function


def needs(owner: object, *names: str) -> None:
    """Raise AbsentFromThisRelease unless the client has all these names."""
    for name in names:
        if not hasattr(owner, name):
            raise AbsentFromThisRelease(name)


def eventually(holds: Callable[[], bool], *, seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, f"not within {seconds} s"
        time.sleep(0.2)


def run_all() -> None:
    for function in _CHECKS:
        begun = time.monotonic()
        detail = ""
        try:
            function()
            outcome = "passed"
        except AbsentFromThisRelease as absent:
            outcome, detail = "absent", str(absent)
        except Exception as error:  # whatever a client raises is this check's failure, and the next one's turn
            outcome = "failed"
            frames = traceback.extract_tb(error.__traceback__)
            where = [frame.lineno for frame in frames if frame.filename == sys.argv[0]]
            detail = f"line {where[-1]}: {type(error).__name__}: {error}"
        seconds = round(time.monotonic() - begun, 2)
        print(json.dumps({"check": function.__name__, "outcome": outcome, "detail": detail, "seconds": seconds}))
        sys.stdout.flush()
