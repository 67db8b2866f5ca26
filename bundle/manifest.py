"""SHA256SUMS: the sha256 of every file of the bundle, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

NAME = "SHA256SUMS"


def write(bundle: Path) -> tuple[int, int]:
    """Write the manifest of what lies under `bundle`. Return the number of files and their size in bytes."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path != bundle / NAME)
    lines = "".join(f"{_sha256(path)}  {path.relative_to(bundle)}\n" for path in files)
    manifest = bundle / NAME
    if not manifest.exists() or manifest.read_text() != lines:
        manifest.write_text(lines)
    return len(files), sum(path.stat().st_size for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
