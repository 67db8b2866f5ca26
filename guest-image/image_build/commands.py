"""Runs other programs: no shell, no surprise from the caller's environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from image_build.errors import ToolFailed, ToolMissing

SOURCE_DATE_EPOCH = 1_704_067_200
"""2024-01-01T00:00:00Z: the time that every file of our making carries, in every build."""

_PASSED_ON = ("PATH", "HOME", "http_proxy", "https_proxy", "no_proxy")
_PASSED_ON_PREFIXES = ("PIP_", "SSL_CERT_")
"""How this machine reaches its package registries is the machine's business."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a tool: locale, time zone and dates fixed, the rest left out."""
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    fixed = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH)}
    return kept | fixed | dict(extra or {})


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 1800,
) -> str:
    """Run a program to its end and return what it wrote to its standard output."""
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(env),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise ToolMissing(command[0]) from error
    if done.returncode != 0:
        raise ToolFailed(command, done.returncode, done.stderr or done.stdout)
    return done.stdout
