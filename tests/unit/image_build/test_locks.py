"""The lock files that are committed say what the lists beside them ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUEST_IMAGE = Path(__file__).parents[3] / "guest-image"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return {match["name"].lower().replace("_", "-"): match["version"] for match in _PIN.finditer(path.read_text())}


@pytest.mark.parametrize(
    ("requirements", "lock"),
    [
        ("agent/requirements.txt", "agent-wheels"),
        ("code-interpreter/requirements/server.txt", "server-wheels"),
        ("code-interpreter/requirements/kernel.txt", "kernel-wheels"),
    ],
)
def test_a_lock_of_wheels_agrees_with_its_requirements(requirements: str, lock: str) -> None:
    wanted = pins(GUEST_IMAGE / requirements)
    assert wanted, "an empty list would agree with anything"
    assert pins(GUEST_IMAGE / "locks" / f"{lock}.lock") == wanted, "run guest-image/build.py lock"
