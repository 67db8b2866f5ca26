"""Whether this QEMU can be saved by its changed pages, found out by saving a guest in the middle of its boot.

Saving the devices alone and moving RAM past QEMU is not what QEMU documents. So a node tries it before it entrusts a
sandbox to it: the restored machine's RAM must be the saved one's, byte for byte, and its guest must go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from appliance.common.threads import in_thread
from appliance.domain.errors import CubeError, VmmFailure
from appliance.domain.ids import VmId
from appliance.hypervisor import console
from appliance.hypervisor.base import BootSource, Hypervisor, Snapshot, VmProcess, VmSpec, VmState
from appliance.hypervisor.deadlines import within
from appliance.hypervisor.private_memory import private_memory

log = structlog.get_logger()

_MEMORY_MIB = 192
_MIB = 2**20
_KERNEL_IS_UP = "Run /init as init process"
_LOOK_INTERVAL_S = 0.005
_CONSOLE_CHARACTERS = 2 * console.SEGMENT_BYTES


async def objection_to_dirty_pages(
    driver: Hypervisor, guest: BootSource, *, deadline: timedelta, scratch: Path | None = None
) -> str | None:
    """Return why `driver`, made with `dirty_page_snapshots`, cannot be trusted with them here; None where it can.

    Boots the kernel of `guest`, which needs no disk for that. Nothing is left of it, nor in `scratch`.
    """
    started = time.monotonic()
    try:
        async with within(deadline, "the self-test of changed pages"):
            await _save_in_the_middle_of_a_boot(driver, guest, deadline, scratch)
        objection = None
    except CubeError as error:
        objection = error.message
    seconds = round(time.monotonic() - started, 3)
    log.info("dirty_page_snapshots_tried", objection=objection, seconds=seconds)
    return objection


async def _save_in_the_middle_of_a_boot(
    driver: Hypervisor, guest: BootSource, deadline: timedelta, scratch: Path | None
) -> None:
    # The last word on the command line wins: messages of all levels, however quiet the guest is made otherwise.
    loud = replace(guest, cmdline=f"{guest.cmdline} loglevel=7")
    async with AsyncExitStack() as undo:
        root = Path(undo.enter_context(TemporaryDirectory(prefix="cube-self-test-", dir=scratch)))

        def stopped_in_the_end(vm: VmProcess) -> VmProcess:
            undo.push_async_callback(driver.stop, vm)
            return vm

        booting = stopped_in_the_end(await driver.boot(_spec(root, "boot"), loud, deadline=deadline))
        # Not sooner: until the firmware has read kernel and initramfs, a clone, which has neither, could not go on.
        await _printed(driver, booting, "\n")
        template = await driver.snapshot(booting, root, deadline=deadline)
        first = stopped_in_the_end(await driver.clone(_spec(root, "saved"), template, deadline=deadline))
        await driver.resume(first, deadline=deadline)
        await _printed(driver, first, "\n")
        saved = await driver.save(first, template, root / "state", deadline=deadline)
        if _KERNEL_IS_UP in await _printed(driver, first, "\n"):
            raise VmmFailure("the guest was up before it could be saved")
        second = stopped_in_the_end(await driver.clone(_spec(root, "restored"), saved, deadline=deadline))
        if await _ram(first, saved) != await _ram(second, saved):
            raise VmmFailure("the restored machine's RAM is not the saved one's")
        await driver.resume(second, deadline=deadline)
        await _printed(driver, second, _KERNEL_IS_UP)


def _spec(root: Path, name: str) -> VmSpec:
    runtime_dir = root / name
    runtime_dir.mkdir()
    return VmSpec(
        vm_id=VmId(f"self-test-{name}"),
        vcpus=1,
        memory_mib=_MEMORY_MIB,
        memory_file=root / "memory",
        disks=(),
        nic=None,
        runtime_dir=runtime_dir,
        confinement=None,
    )


async def _ram(vm: VmProcess, snapshot: Snapshot) -> bytes:
    with private_memory(vm.pid, snapshot.memory_file) as memory:

        def digest() -> bytes:
            buffer, sha256 = memoryview(bytearray(_MIB)), hashlib.sha256()
            for position in range(0, _MEMORY_MIB * _MIB, _MIB):
                memory.read_into(buffer, position)
                sha256.update(buffer)
            return sha256.digest()

        return await in_thread(digest)


async def _printed(driver: Hypervisor, vm: VmProcess, text: str) -> str:
    """Return what the guest printed, once `text` is in it."""
    while True:
        # In this order: a guest that is up and then finds no disk may have ended by the time we look.
        ended = await driver.describe(vm) is VmState.EXITED
        printed = console.tail(driver.console(vm), _CONSOLE_CHARACTERS)
        if text in printed:
            return printed
        if ended:
            raise VmmFailure(f"the guest ended: {printed[-200:].strip()}")
        await asyncio.sleep(_LOOK_INTERVAL_S)
