"""This host: where things lie on it, and running programs on it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
VENV = CHECKOUT / ".venv"
STATE = Path("/var/lib/cube-lab")
"""As `lab_machine_state_dir` in roles/lab_machine."""
NAMESPACE = "cube-lab"
MACHINE = "cube-1"
"""The machine with the control plane."""
MACHINE_ADDRESS = "198.18.0.11"


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
    """Run a program whose output the user sees. Raises CalledProcessError."""
    subprocess.run(argv, cwd=CHECKOUT, env={**os.environ, **(env or {})}, check=True)


def output(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return what it printed. Raises CalledProcessError."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run(argv, cwd=CHECKOUT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def shown(argv: object) -> str:
    """A command as a person would type it."""
    return shlex.join(map(str, argv)) if isinstance(argv, (list, tuple)) else str(argv)
