"""Makes an artefact only when what it is made from has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from image_build.hashing import sha256_of, sha256_tree
from image_build.progress import say

_THIS_PACKAGE = Path(__file__).parent


def make(
    name: str,
    *,
    stamp: Path,
    inputs: Mapping[str, object],
    outputs: Iterable[Path],
    build: Callable[[], None],
) -> None:
    """Run `build` unless `stamp` says that `outputs` were made from the same `inputs` by the same builder."""
    everything = {**inputs, "builder": sha256_tree(_THIS_PACKAGE)}
    digest = sha256_of(everything)
    wanted = tuple(outputs)
    if _read(stamp) == digest and all(path.exists() for path in wanted):
        say(f"{name}: unchanged")
        return
    say(f"{name}: building")
    stamp.unlink(missing_ok=True)
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
    build()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps({"digest": digest, "inputs": everything}, indent=2, sort_keys=True) + "\n")
    say(f"{name}: done")


def _read(stamp: Path) -> str | None:
    """Return the digest in a stamp. A stamp that cannot be read says nothing."""
    try:
        digest = json.loads(stamp.read_text())["digest"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None
