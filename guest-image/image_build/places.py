"""Where the build reads and writes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    source: Path
    """The directory `guest-image/` of the project."""
    output: Path
    """The project's `build/`: everything in it can be made again."""
    cache: Path
    """Downloads, by their hash: shared by every checkout on this machine."""

    @classmethod
    def of_checkout(cls, source: Path) -> Places:
        cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(source=source, output=source.parent / "build", cache=Path(cache_home) / "cube")

    @property
    def guest(self) -> Path:
        """Kernel, initramfs, agent disk, manifest."""
        return self.output / "guest"

    @property
    def images(self) -> Path:
        """OCI layouts, one directory an image."""
        return self.output / "images"

    @property
    def stamps(self) -> Path:
        """What each artefact was made from, so that an unchanged one is not made again."""
        return self.output / "stamps"

    def lock(self, name: str) -> Path:
        return self.source / "locks" / f"{name}.lock"
