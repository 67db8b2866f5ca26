"""Deadlines of operations on a VMM, raised as the error callers know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from appliance.domain.errors import DeadlineExceeded


@asynccontextmanager
async def within(deadline: timedelta, what: str) -> AsyncIterator[None]:
    """Cancel the block after `deadline` and raise DeadlineExceeded; `what` names it, as in `the restore of vm x`."""
    seconds = deadline.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceeded(what, seconds) from None


async def together(*steps: Coroutine[Any, Any, object]) -> None:
    """Run all steps at once. The first failure cancels the others and is raised, by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
