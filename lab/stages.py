"""Shows which stage runs, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """The stages of one command, in the order in which they ran."""

    def __init__(self) -> None:
        self._durations_s: dict[str, float] = {}
        self.current = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and take its time. One that fails has no time."""
        self.current = name
        print(f"\n==> {name}", flush=True)
        started = time.monotonic()
        yield
        self._durations_s[name] = time.monotonic() - started

    def summarize(self) -> None:
        """Print how long each stage took, and all together."""
        print()
        for name, duration_s in self._durations_s.items():
            print(f"{duration_s:7.1f} s  {name}")
        print(f"{sum(self._durations_s.values()):7.1f} s  together", flush=True)
