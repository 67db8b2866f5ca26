"""Tests against the appliance that `make up` deployed.

The process that runs the tests stays where it is. Each session of the SDK is a process of its own (`client`) in the
lab's network namespace, where the appliance's names resolve and its addresses are reached.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import host
from lab.appliance import Appliance, inside_lab

CLIENT_DEADLINE_S = 180


@pytest.fixture(scope="session")
def appliance() -> Appliance:
    """The deployed appliance. Fails, rather than skips, where there is none: `make test` makes it first."""
    if not Path("/run/netns", host.NAMESPACE).exists():
        pytest.fail("no appliance in the lab: run `make up`", pytrace=False)
    return Appliance.of_lab()


@pytest.fixture
def client(appliance: Appliance) -> Callable[[str], str]:
    """Runs a program that uses the SDK, as a client of the appliance, and returns what it printed."""

    def run(program: str) -> str:
        done = subprocess.run(
            inside_lab([host.VENV / "bin" / "python", "-c", program]),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **appliance.client_environment()},
            capture_output=True,
            text=True,
            timeout=CLIENT_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
