"""SHA256SUMS: the sha256 of every file of the bundle, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

NAME = "SHA256SUMS"


def write(bundle: Path, *, kept: Collection[str] = ()) -> tuple[int, int]:
    """Write the manifest of what lies under `bundle`. Return the number of files and their size in bytes.

    Parts that were `kept` from an earlier build must still be what its manifest says: what was damaged since is not
    vouched for.
    """
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path != bundle / NAME)
    sums = {str(path.relative_to(bundle)): _sha256(path) for path in files}
    manifest = bundle / NAME
    before = parse(manifest.read_text()) if manifest.exists() else {}
    damaged = [name for name, digest in sums.items() if _part(name) in kept and before.get(name, digest) != digest]
    if damaged:
        raise SystemExit(
            f"bundle: changed since it was built: {', '.join(damaged)}. Remove {bundle.parent}, and the cache that"
            " its files may be linked to, and build again"
        )
    if before != sums:
        manifest.write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return len(files), sum(path.stat().st_size for path in files)


def parse(text: str) -> Mapping[str, str]:
    """The sums by the files' names, in a manifest."""
    return {name: digest for digest, name in (line.split("  ", maxsplit=1) for line in text.splitlines())}


def _part(name: str) -> str:
    return name.split("/", maxsplit=1)[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
