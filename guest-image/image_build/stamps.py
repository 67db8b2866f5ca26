"""Makes an artefact only when what it is made from has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

from image_build.hashing import sha256_file, sha256_of
from image_build.progress import say


def make(
    name: str,
    *,
    stamp: Path,
    inputs: Mapping[str, object],
    outputs: Iterable[Path],
    build: Callable[[], None],
    builders: Iterable[ModuleType],
) -> None:
    """Run `build` unless `stamp` says that `outputs` were made from the same `inputs` by the same `builders`.

    `builders` are the modules whose change may change the outputs.
    """
    everything = {**inputs, **{builder.__name__: _source_hash(builder) for builder in builders}}
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


def _source_hash(module: ModuleType) -> str:
    assert module.__file__ is not None, "a module of ours is a file"
    return sha256_file(Path(module.__file__))


def _read(stamp: Path) -> str | None:
    """Return the digest in a stamp. A stamp that cannot be read says nothing."""
    try:
        digest = json.loads(stamp.read_text())["digest"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None
