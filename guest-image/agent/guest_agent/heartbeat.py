"""The agent's sign of life for process 1, which ends an agent that shows none and starts another."""

from __future__ import annotations

import os
from contextlib import suppress


class Heartbeat:
    """Beats on an eventfd that process 1 made; without one, on nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            # It came by way of exec; the programs that the agent starts must not have it.
            os.set_inheritable(descriptor, False)

    def beat(self) -> None:
        """Say that the event loop turns."""
        if self._descriptor is not None:
            # Full, because process 1 has not looked for 2^64 beats, is as good as said.
            with suppress(BlockingIOError):
                os.eventfd_write(self._descriptor, 1)
