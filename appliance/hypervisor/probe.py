"""Which accelerator this node can use, found out by running its own guest kernel with each.

That /dev/kvm can be opened proves nothing: a KVM that is itself emulated, or a PVM host without a guest kernel made
for it, accepts a guest and then hardly moves. So a guest has to get somewhere within a deadline, or is killed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from appliance.domain.errors import CubeError, VmmFailure
from appliance.domain.ids import VmId
from appliance.hypervisor import console
from appliance.hypervisor.base import Accelerator, BootSource, Hypervisor, VmProcess, VmSpec, VmState
from appliance.hypervisor.deadlines import within

log = structlog.get_logger()

# What the kernel prints when it is up and starts user space. Nothing of the guest's own is needed after that.
_KERNEL_IS_UP = "Run /init as init process"
_MEMORY_MIB = 192
_LOOK_INTERVAL_S = 0.02
_CONSOLE_CHARACTERS = 2 * console.SEGMENT_BYTES
_KVM_DEVICE = Path("/dev/kvm")

DEFAULT_DEADLINES: Mapping[Accelerator, timedelta] = {
    # A working KVM takes well under a second.
    Accelerator.KVM: timedelta(seconds=5),
    Accelerator.TCG: timedelta(seconds=60),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One accelerator, tried."""

    accelerator: Accelerator
    failure: str | None
    """Why it cannot be used; None where it can."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Choice:
    accelerator: Accelerator
    attempts: tuple[Attempt, ...]
    """In the order tried; the last is the one chosen."""


async def choose_accelerator(
    driver: Callable[[Accelerator], Hypervisor],
    guest: BootSource,
    *,
    deadlines: Mapping[Accelerator, timedelta] = DEFAULT_DEADLINES,
    scratch: Path | None = None,
) -> Choice:
    """Return the first of KVM and TCG under which `guest` boots, or raise VmmFailure with what each did.

    `deadlines` also tells what to try, in which order. `scratch` is where each guest's files are kept for that time.
    """
    attempts: list[Attempt] = []
    for accelerator, deadline in deadlines.items():
        started = time.monotonic()
        hypervisor = driver(accelerator)
        try:
            await _boot(hypervisor, accelerator, guest, deadline, scratch)
            failure = None
        except CubeError as error:
            failure = error.message
        finally:
            await hypervisor.close()
        attempt = Attempt(accelerator, failure, round(time.monotonic() - started, 3))
        log.info("accelerator_tried", accelerator=accelerator, failure=failure, seconds=attempt.seconds)
        attempts.append(attempt)
        if failure is None:
            return Choice(accelerator, tuple(attempts))
    raise VmmFailure(
        "no accelerator can run the guest kernel: " + "; ".join(f"{a.accelerator}: {a.failure}" for a in attempts)
    )


async def _boot(
    driver: Hypervisor, accelerator: Accelerator, guest: BootSource, deadline: timedelta, scratch: Path | None
) -> None:
    if accelerator is Accelerator.KVM and not os.access(_KVM_DEVICE, os.R_OK | os.W_OK):
        raise VmmFailure(f"{_KVM_DEVICE} is absent or not accessible")
    with TemporaryDirectory(prefix="cube-probe-", dir=scratch) as directory:
        spec = VmSpec(
            vm_id=VmId(f"probe-{accelerator}"),
            vcpus=1,
            memory_mib=_MEMORY_MIB,
            memory_file=Path(directory) / "memory",
            disks=(),
            nic=None,
            runtime_dir=Path(directory),
            confinement=None,
        )
        # The last word on the command line wins: messages of all levels, however quiet the guest is made otherwise.
        loud = BootSource(guest.kernel, guest.initramfs, f"{guest.cmdline} loglevel=7")
        async with within(deadline, f"the boot of a guest kernel with {accelerator}"):
            vm = await driver.boot(spec, loud, deadline=deadline)
            try:
                await _kernel_is_up(driver, vm)
            finally:
                await driver.stop(vm)


async def _kernel_is_up(driver: Hypervisor, vm: VmProcess) -> None:
    while True:
        # In this order: a guest that is up and then finds no disk may have ended by the time we look.
        ended = await driver.describe(vm) is VmState.EXITED
        printed = console.tail(driver.console(vm), _CONSOLE_CHARACTERS)
        if _KERNEL_IS_UP in printed:
            return
        if ended:
            raise VmmFailure(f"the guest ended before its kernel was up: {printed[-200:].strip()}")
        await asyncio.sleep(_LOOK_INTERVAL_S)
