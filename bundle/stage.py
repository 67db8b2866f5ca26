"""Where the builder works, and when a stage may keep what it made before."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workplace:
    """The directories of one build."""

    source: Path
    """The checkout."""
    build: Path
    """What other builders made (`build/guest`, `build/images`), and the stamps of this one."""
    bundle: Path
    """Filled in place: lab machines have this very directory mounted."""
    cache: Path
    """Downloads, kept between checkouts."""
    refresh: bool
    """Look for newer Debian packages although the list of those wanted is unchanged."""

    @classmethod
    def of_checkout(cls, source: Path, *, refresh: bool = False) -> Workplace:
        """The usual places: `build/` in the checkout, and the user's cache."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cube"
        build = source / "build"
        return cls(source=source, build=build, bundle=build / "bundle", cache=cache, refresh=refresh)

    def directory(self, name: str) -> Path:
        """The part of the bundle called `name`, made if it is not there."""
        path = self.bundle / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, slots=True)
class Stamp:
    """Remembers which inputs a stage was last built from."""

    path: Path
    key: str

    @classmethod
    def of(cls, place: Workplace, stage: str, inputs: Iterable[bytes]) -> Stamp:
        """The stamp of `stage` for these inputs."""
        digest = hashlib.sha256()
        for part in inputs:
            digest.update(hashlib.sha256(part).digest())
        return cls(path=place.build / "stamps" / f"bundle-{stage}", key=digest.hexdigest())

    def holds(self) -> bool:
        """Whether the stage was finished with the same inputs."""
        return self.path.exists() and self.path.read_text() == self.key

    def set(self) -> None:
        """Record that the stage is finished."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.key)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage did."""

    summary: str
    kept: bool = False
    """Nothing was made: what lies there is what the manifest of an earlier build describes."""


def file_inputs(root: Path, files: Iterable[Path]) -> Iterable[bytes]:
    """Names and contents of `files`, in an order that does not depend on the file system."""
    for path in sorted(files):
        yield str(path.relative_to(root)).encode()
        yield path.read_bytes()


def link(source: Path, target: Path) -> None:
    """Give the bundle a file of the cache: another name for it, or a copy on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def keep_only(directory: Path, wanted: Iterable[Path]) -> None:
    """Remove the files under `directory` that are not `wanted`."""
    keep = set(wanted)
    for path in directory.rglob("*"):
        if not path.is_dir() and path not in keep:
            path.unlink()


def run(argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return what it printed. What it says on stderr is shown; failure raises."""
    done = subprocess.run(
        argv, cwd=cwd, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
