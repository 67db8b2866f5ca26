"""Environments with one released client each, kept outside the tree between runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.compat.matrix import Client, Runtime
from tests.support.sdk_venv import CACHE, sdk_python

PROGRAMS = Path(__file__).parent / "programs"
_INSTALL_LIMIT_S = 900


def command(client: Client) -> tuple[list[str | Path], Path]:
    """Return what runs the client's program and the directory to run it in, with its environment made on first use."""
    if client.runtime is Runtime.PYTHON:
        return [sdk_python(*client.packages), PROGRAMS / client.program], PROGRAMS
    directory = _node_directory(client)
    # Node looks for packages beside the program, so the programs lie beside the packages.
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copy(program, directory)
    return ["node", client.program], directory


def _node_directory(client: Client) -> Path:
    name = "+".join(client.packages).replace("/", "-")
    directory = CACHE / "node" / name
    if (directory / "complete").exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "package.json").write_text(json.dumps({"name": "client", "private": True, "type": "module"}))
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *client.packages],
        cwd=directory,
        check=True,
        timeout=_INSTALL_LIMIT_S,
    )
    (directory / "complete").touch()
    return directory
