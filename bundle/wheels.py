"""The appliance and the Python packages it needs, as wheels.

Dependencies come from `requirements.lock`, which has the hash of every file: pip refuses any other. What is
published as source only (mysqlclient) is compiled here.
"""

from __future__ import annotations

import re
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from bundle.stage import Outcome, Stamp, Workplace, file_inputs, keep_only, link, run

_REPRODUCIBLE = {"SOURCE_DATE_EPOCH": "1577836800"}
"""Files in a wheel get this time (2020-01-01), so that the same source makes the same bytes."""


def build(place: Workplace) -> Outcome:
    """Fill `wheels/`."""
    lock = place.source / "requirements.lock"
    target = place.directory("wheels")
    dependencies = place.cache / "wheels"
    python = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]

    project = tomllib.loads((place.source / "pyproject.toml").read_text())["project"]
    if missing := not_locked(project["dependencies"], lock.read_text()):
        raise SystemExit(f"bundle: requirements.lock lacks {', '.join(missing)}: run `make lock`")
    locked = Stamp.of(place, "wheels-locked", [lock.read_bytes(), sys.version.encode()])
    downloaded = dependencies / locked.key[:16]
    if not downloaded.exists():
        partial = downloaded.with_suffix(".part")
        run([*python, "wheel", "--no-deps", "--require-hashes", "--requirement", lock, "--wheel-dir", partial])
        partial.rename(downloaded)

    sources = [place.source / "pyproject.toml", place.source / "README.md", *_files(place.source / "appliance")]
    stamp = Stamp.of(place, "wheels", [locked.key.encode(), *file_inputs(place.source, sources)])
    if stamp.holds():
        return Outcome(f"{len(list(target.glob('*.whl')))} wheels, as before", kept=True)

    with tempfile.TemporaryDirectory(dir=dependencies) as scratch:
        # Built from a copy: setuptools would leave its own `build/` in the checkout, and pick up what lies in it.
        copy, built = Path(scratch, "source"), Path(scratch, "built")
        for source in sources:
            link(source, copy / source.relative_to(place.source))
        run([*python, "wheel", "--no-deps", "--wheel-dir", built, copy], env=_REPRODUCIBLE)
        wheels = [*downloaded.glob("*.whl"), *built.glob("*.whl")]
        for wheel in wheels:
            link(wheel, target / wheel.name)
    keep_only(target, [target / wheel.name for wheel in wheels])
    stamp.set()
    return Outcome(f"{len(wheels)} wheels")


def not_locked(dependencies: Sequence[str], lock: str) -> Sequence[str]:
    """Those of pyproject.toml's dependencies that the lock does not pin."""
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    names = [re.split(r"[^A-Za-z0-9_.-]", dependency, maxsplit=1)[0].lower() for dependency in dependencies]
    return [name for name in names if name not in pinned]


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
