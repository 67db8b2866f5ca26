"""Blocking work in a thread whose descriptors the caller may free as soon as the call returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread and wait until it has ended, also when cancelled.

    `asyncio.to_thread` abandons its thread on cancellation; the thread would go on using descriptors that the
    caller closes meanwhile, and whose numbers belong to other files a moment later.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not thread.done():
        try:
            await asyncio.wait((thread,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        thread.exception()  # Whatever it was, the cancellation is the answer.
        raise cancelled
    return thread.result()
