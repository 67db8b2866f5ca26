"""Work that makes sense only while a machine lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from appliance.domain.errors import CubeError, VmmFailure
from appliance.hypervisor.base import Hypervisor, VmProcess, VmState

T = TypeVar("T")


async def while_alive(hypervisor: Hypervisor, vm: VmProcess, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. Raises VmmFailure, and cancels `work`, as soon as the machine has died.

    A guest whose machine is gone sends no reset: whoever waits for its answer would wait for the whole deadline.
    """
    working, dying = asyncio.ensure_future(work), asyncio.ensure_future(hypervisor.wait_exit(vm))
    try:
        await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            dying.result()
            raise _death(vm)
        try:
            return working.result()
        except CubeError as error:
            # What used the machine may have noticed first, and knows only that it got no answer.
            if await hypervisor.describe(vm) is VmState.EXITED:
                raise _death(vm) from error
            raise
    finally:
        for task in (working, dying):
            task.cancel()
        await asyncio.gather(working, dying, return_exceptions=True)


def _death(vm: VmProcess) -> VmmFailure:
    return VmmFailure(
        f"the VMM process of {vm.vm_id} ended by itself: it crashed or was killed, for instance for want of memory;"
        " see the node's kernel log"
    )
