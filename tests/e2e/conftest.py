"""Tests against the appliance that `make up` deployed.

The process that runs the tests stays where it is. Each session of the SDK is a process of its own (`client`) in the
lab's network namespace, where the appliance's names resolve and its addresses are reached.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer

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


def _client(python: Path, appliance: Appliance) -> Callable[[str], str]:
    def run(program: str) -> str:
        done = subprocess.run(
            inside_lab([python, "-c", program]),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **appliance.client_environment()},
            capture_output=True,
            text=True,
            timeout=CLIENT_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def client(appliance: Appliance) -> Callable[[str], str]:
    """Runs a program that uses the SDK, as a client of the appliance, and returns what it printed."""
    return _client(host.VENV / "bin" / "python", appliance)


@pytest.fixture
def older_client(appliance: Appliance) -> Callable[[str], str]:
    """The same with the SDK of an older release, whose wire differs."""
    lock = Path(__file__).parent / "clients" / "older.lock"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cube" / "clients"
    environment = caches / hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    if not (environment / "complete").exists():
        python = environment / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True, timeout=120)
        install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", lock]
        subprocess.run(install, check=True, timeout=600)
        (environment / "complete").touch()
    return _client(environment / "bin" / "python", appliance)


Step = Callable[[list[str]], object]


@pytest.fixture
def stepwise(appliance: Appliance) -> Callable[..., str]:
    """Runs a program like `client`, and something else at the points where it asks for it.

    The program prints the name of a step and reads a line; the step is called with all lines printed so far.
    """

    def run(program: str, **steps: Step) -> str:
        process = subprocess.Popen(
            inside_lab([host.VENV / "bin" / "python", "-c", program]),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **appliance.client_environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        deadline = Timer(CLIENT_DEADLINE_S, process.kill)
        deadline.start()
        try:
            lines: list[str] = []
            assert process.stdin is not None
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.strip())
                if step := steps.get(lines[-1]):
                    step(lines)
                    process.stdin.write("\n")
                    process.stdin.flush()
            assert process.wait() == 0, lines
            return "\n".join(lines)
        finally:
            deadline.cancel()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()

    return run
