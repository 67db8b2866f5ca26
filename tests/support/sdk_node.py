"""Directories with one released npm client each, kept outside the tree between runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.support.sdk_venv import CACHE


def sdk_modules(*packages: str) -> Path:
    """Return a directory that has exactly these pinned packages in its `node_modules`, made on first use."""
    directory = CACHE / "node" / "+".join(packages).replace("/", "-")
    if (directory / "complete").exists():
        return directory
    # An interrupted install, if there was one.
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "package.json").write_text(json.dumps({"name": "sdk", "private": True, "type": "module"}))
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *packages],
        cwd=directory,
        check=True,
        timeout=900,
    )
    (directory / "complete").touch()
    return directory
