"""The virtual machine we ask QEMU for. A snapshot fits only the machine that made it, so all of this is constant."""

from __future__ import annotations

import re
from datetime import timedelta

from appliance.common.process import run
from appliance.domain.errors import VmmFailure
from appliance.hypervisor.base import Accelerator

# acpi=on: the guest kernel finds its virtio-mmio devices in ACPI tables, not on its command line.
MACHINE_TYPE = "microvm,acpi=on,rtc=on"

# virtio-mmio slots of a microvm: its disks and its network device.
MAX_DEVICES = 8

# x86-64-v2, which current wheels and Go programs are built for, plus AES for TLS. Versioned, so that an upgrade of
# QEMU does not change it; -v1 is the one without speculation controls, which TCG would warn about.
_CPU_MODEL = {Accelerator.TCG: "Westmere-v1", Accelerator.KVM: "host"}

# Translated guest code, MiB. Pages of it count only once used; QEMU's default of 1 GiB is charged to each sandbox
# as it fills.
_TCG_CACHE_MIB = 64

MINIMUM_MAJOR_VERSION = 10


def cpu_model(accelerator: Accelerator) -> str:
    """Return the argument of `-cpu`."""
    return _CPU_MODEL[accelerator]


def accel(accelerator: Accelerator, vcpus: int) -> str:
    """Return the argument of `-accel`."""
    if accelerator is Accelerator.KVM:
        return "kvm"
    thread = "single" if vcpus == 1 else "multi"
    return f"tcg,tb-size={_TCG_CACHE_MIB},thread={thread}"


def identity(version: str, accelerator: Accelerator) -> str:
    """Return what a snapshot is valid for, as `Snapshot.machine` holds it."""
    return f"qemu-{version}/{accelerator}/{MACHINE_TYPE}/{cpu_model(accelerator)}"


def parse_version(text: str) -> str:
    """Return the version in the output of `qemu-system-x86_64 --version`, the distribution's suffix included.

    A distribution's patch may change what a device saves, so its suffix is part of a snapshot's identity.
    """
    match = re.match(r"QEMU emulator version (\d+)(\.\S+)(?: \((?:Debian )?([^)]+)\))?", text)
    if match is None:
        raise VmmFailure(f"not the version of a QEMU: {text[:80]!r}")
    major, rest, package = match.groups()
    if int(major) < MINIMUM_MAJOR_VERSION:
        raise VmmFailure(f"QEMU {major}{rest} is too old: {MINIMUM_MAJOR_VERSION} or newer is needed")
    return package or major + rest


async def installed_version(binary: str, *, deadline: timedelta) -> str:
    """Return the version of the QEMU at `binary`."""
    completed = await run([binary, "--version"], deadline=deadline)
    return parse_version(completed.stdout.decode(errors="replace"))
