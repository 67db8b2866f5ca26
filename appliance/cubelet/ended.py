"""Sandboxes that ended by themselves, kept on disk until CubeMaster has taken the news."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from appliance.contracts.node import EndedSandbox


class EndedStore:
    """One file a sandbox under `root`, named by its id, so that noting the same end twice changes nothing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.changed = asyncio.Event()
        """Set when there is news, of this or another kind; the heartbeat sends it at once."""

    def note(self, ended: EndedSandbox) -> None:
        """Keep the news durably. The first reason stays."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._root / f"{ended.sandbox_id}.json"
        if path.exists():
            return
        temporary = path.with_suffix(".tmp")
        with temporary.open("w") as file:
            file.write(ended.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self.changed.set()

    def pending(self) -> tuple[EndedSandbox, ...]:
        if not self._root.is_dir():
            return ()
        return tuple(EndedSandbox.model_validate_json(path.read_bytes()) for path in sorted(self._root.glob("*.json")))

    def taken(self, ended: EndedSandbox) -> None:
        """Forget what CubeMaster has acknowledged."""
        (self._root / f"{ended.sandbox_id}.json").unlink(missing_ok=True)
