"""Wheels, through pip: locked with their hashes, fetched exactly as locked, unpacked without being run."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_build import commands
from image_build.hashing import sha256_file

_GUEST_PYTHON = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--abi=abi3",
    "--abi=none",
    # Debian 12 has glibc 2.36. pip takes each platform literally: the older tags have to be named too.
    *(f"--platform=manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)),
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux2010_x86_64",
    "--platform=manylinux1_x86_64",
)
"""Choose wheels for the guest's Python, whatever Python this build runs on."""


@dataclass(frozen=True, slots=True)
class Locked:
    """Downloaded wheels with the lock file that they were checked against."""

    lock: Path
    directory: Path


_HEAD = "# Made by `guest-image/build.py lock` from {source}. One wheel an entry, in pip's own format.\n"


def lock(requirements: Path, cache: Path) -> str:
    """Return the text of the lock file for `requirements`, which must name every package and its version."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        commands.run(
            [
                *_pip(cache, "install"),
                "--dry-run",
                "--no-deps",
                "--ignore-installed",
                f"--target={scratch}/none",
                f"--report={report}",
                *_GUEST_PYTHON,
                f"--requirement={requirements}",
            ]
        )
        return format_lock(json.loads(report.read_text()), source=requirements.name)


def format_lock(report: Mapping[str, Any], *, source: str) -> str:
    """Turn pip's installation report into a requirements file with hashes."""
    lines = []
    for item in report["install"]:
        metadata, hashes = item["metadata"], item["download_info"]["archive_info"]["hashes"]
        lines.append(f"{metadata['name']}=={metadata['version']} --hash=sha256:{hashes['sha256']}\n")
    return _HEAD.format(source=source) + "".join(sorted(lines, key=str.lower))


def fetch(lock_file: Path, cache: Path) -> Locked:
    """Return the wheels of a lock file, downloaded once and checked by pip against their hashes."""
    directory = cache / "wheels" / sha256_file(lock_file)
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            landing = Path(scratch) / "wheels"
            landing.mkdir()
            commands.run(
                [
                    *_pip(cache, "download"),
                    "--no-deps",
                    "--require-hashes",
                    f"--dest={landing}",
                    *_GUEST_PYTHON,
                    f"--requirement={lock_file}",
                ]
            )
            landing.rename(directory)
    return Locked(lock_file, directory)


def unpack(locked: Locked, site_packages: Path) -> None:
    """Unpack the importable part of the wheels: a library needs no console scripts."""
    for wheel in sorted(locked.directory.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if ".data/" not in name:
                    archive.extract(name, site_packages)


def _pip(cache: Path, verb: str) -> list[str | Path]:
    """Return the start of a pip command. Debian's Python may come without pip, but can make an environment with one."""
    python = Path(sys.executable)
    if importlib.util.find_spec("pip") is None:
        environment = cache / "pip"
        python = environment / "bin/python"
        if not python.exists():
            commands.run([sys.executable, "-m", "venv", environment])
    return [python, "-m", "pip", verb, "--quiet", "--no-input", "--disable-pip-version-check"]
