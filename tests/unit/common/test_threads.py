from __future__ import annotations

import asyncio
import threading

import pytest

from appliance.common.threads import in_thread


async def test_a_cancelled_call_ends_only_after_its_thread() -> None:
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)
        ended.set()

    call = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(started.wait, 10)
    call.cancel()
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    assert not call.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_errors_and_results_pass_through() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)
