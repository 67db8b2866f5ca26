"""Places where a test makes this process fail. Nothing is armed in production: reaching one then costs a comparison.

A test arms them by a setting that names a file, and writes `<point> kill`, `<point> raise` or `<point> hold` into it:
so it can kill a service, or what the service uses, between two steps that no signal sent from outside would hit.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from appliance.domain.errors import NodeFailure

_HOLD_LIMIT_S = 120
"""A held process goes on by itself after that, should its test have died."""


class _Armed:
    file: Path | None = None


def arm(file: Path | None) -> None:
    """From now on obey what `file` says at each point; None: nothing is armed."""
    _Armed.file = file


def reach(point: str) -> None:
    """Kill this process, raise NodeFailure, or stand still, if the test wants that here. Else do nothing."""
    if _Armed.file is None:
        return
    try:
        wanted, _, what = _Armed.file.read_text().strip().partition(" ")
    except FileNotFoundError:
        return
    if wanted != point:
        return
    # Once: the next attempt is to succeed.
    _Armed.file.unlink()
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hold":
        _stand_still(_Armed.file)
        return
    raise NodeFailure(f"made to fail at {point}")


def _stand_still(file: Path) -> None:
    """Block until the test writes the file again. All of the process stands still: nothing reacts to what it does."""
    give_up = time.monotonic() + _HOLD_LIMIT_S
    while not file.exists() and time.monotonic() < give_up:
        time.sleep(0.01)  # blocks the event loop, which is what is asked for
    file.unlink(missing_ok=True)
