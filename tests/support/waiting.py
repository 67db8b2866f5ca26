"""Waiting for something that tells nobody when it happens, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Return once `condition()` holds; TimeoutError where it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - processes and files set no Event
            await asyncio.sleep(0.01)
