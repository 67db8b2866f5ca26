"""The node's secret that the certificate authorities of its sandboxes come from. It leaves the node agent never."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from appliance.common.trees import sync_directory

SEED_BYTES: Final = 32


def node_seed(path: Path) -> bytes:
    """Return the seed, made where there is none yet. Raises OSError, and ValueError where the file holds no seed."""
    try:
        seed = path.read_bytes()
    except FileNotFoundError:
        seed = os.urandom(SEED_BYTES)
        _write(path, seed)
    if len(seed) != SEED_BYTES:
        raise ValueError(f"{path} does not hold {SEED_BYTES} bytes: restore it, or remove it to have another made")
    return seed


def _write(path: Path, seed: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "xb", opener=_for_owner) as file:
        file.write(seed)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    # Guests trust what comes from it: another seed after a power loss would break what they have open.
    sync_directory(path.parent)


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
