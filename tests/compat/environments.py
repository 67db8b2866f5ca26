"""Environments with one released client each, kept outside the tree between runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.compat.matrix import Client, Runtime
from tests.support.sdk_node import sdk_modules
from tests.support.sdk_venv import sdk_python

PROGRAMS = Path(__file__).parent / "programs"


def command(client: Client) -> tuple[list[str | Path], Path]:
    """Return what runs the client's program and the directory to run it in, with its environment made on first use."""
    if client.runtime is Runtime.PYTHON:
        return [sdk_python(*client.packages), PROGRAMS / client.program], PROGRAMS
    directory = sdk_modules(*client.packages)
    # Node looks for packages beside the program, so the programs lie beside the packages.
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copy(program, directory)
    return ["node", client.program], directory
