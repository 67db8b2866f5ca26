"""Places where a test makes this process fail. Nothing is armed in production: reaching one then costs a comparison.

A test arms them by a setting that names a file, and writes `<point> kill` or `<point> raise` into it: so it can kill a
service between two steps that no signal sent from outside would hit.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from appliance.domain.errors import NodeFailure


class _Armed:
    file: Path | None = None


def arm(file: Path | None) -> None:
    """From now on obey what `file` says at each point; None: nothing is armed."""
    _Armed.file = file


def reach(point: str) -> None:
    """Kill this process, or raise NodeFailure, if the test wants it here. Else do nothing."""
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
    raise NodeFailure(f"made to fail at {point}")
