"""Virtual environments with one released E2B SDK each, kept outside the tree between runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "cube" / "sdk"


def sdk_python(*requirements: str) -> Path:
    """Return the interpreter of an environment with exactly these pinned requirements, made on first use."""
    directory = CACHE / f"py{sys.version_info.major}.{sys.version_info.minor}" / "+".join(requirements)
    python = directory / "bin" / "python"
    if (directory / "complete").exists():
        return python
    shutil.rmtree(directory, ignore_errors=True)
    venv.create(directory, with_pip=True)
    subprocess.run(
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *requirements],
        check=True,
        timeout=600,
    )
    (directory / "complete").touch()
    return python
