"""`.venv`: Ansible, the linters, the tests and the E2B SDK, as `requirements-dev.lock` pins them."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tomllib
from pathlib import Path

from lab import host

_LOCK = host.CHECKOUT / "requirements-dev.lock"
_MADE_FROM = host.VENV / "made-from"


def make() -> None:
    """Make the environment, unless it was made from the same lock for the same project."""
    project = tomllib.loads((host.CHECKOUT / "pyproject.toml").read_text())["project"]
    key = hashlib.sha256(_LOCK.read_bytes() + json.dumps(project).encode()).hexdigest()
    if _MADE_FROM.exists() and _MADE_FROM.read_text() == key:
        print(f"{host.VENV} is up to date")
        return
    shutil.rmtree(host.VENV, ignore_errors=True)
    # Debian's python3-bpfcc is on no package index.
    host.run([sys.executable, "-m", "venv", "--system-site-packages", host.VENV])
    pip: list[str | Path] = [
        host.VENV / "bin" / "python",
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "install",
    ]
    host.run([*pip, "--require-hashes", "--requirement", _LOCK])
    host.run([*pip, "--no-deps", "--editable", "."])
    _MADE_FROM.write_text(key)
