"""The virtual machine we ask QEMU for. A snapshot fits only the machine that made it, so all of this is constant."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta

from appliance.common.process import run
from appliance.domain.errors import VmmFailure
from appliance.hypervisor.base import Accelerator, VmSpec

# acpi=on: the guest kernel finds its virtio-mmio devices in ACPI tables, not on its command line.
MACHINE_TYPE = "microvm,acpi=on,rtc=on"

# virtio-mmio transports of a microvm: for its disks, its slots and its network device.
MAX_DEVICES = 8

# x86-64-v2, which current wheels and Go programs are built for, plus AES for TLS and RDRAND, the guest kernel's
# first entropy. Versioned, so that an upgrade of QEMU does not change it; -v1 is the one without speculation
# controls, which TCG would warn about.
# With KVM without ARCH_CAPABILITIES, a register that nested and paravirtual KVMs offer but refuse to set.
_CPU_MODEL = {Accelerator.TCG: "Westmere-v1,+rdrand", Accelerator.KVM: "host,-arch-capabilities"}

# Translated guest code, MiB. Pages of it count only once used; QEMU's default of 1 GiB is charged to each sandbox
# as it fills. With 64, a guest that runs Python and Node.js threw its translations away again and again, and took
# twice the processor time.
_TCG_CACHE_MIB = 256

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


def identity(version: str, accelerator: Accelerator, cpuinfo: str) -> str:
    """Return what makes a snapshot of one host unfit for another; `cpuinfo` is the text of /proc/cpuinfo."""
    identity = f"qemu-{version}/{accelerator}/{MACHINE_TYPE}/{cpu_model(accelerator)}"
    return f"{identity}/{_processor(cpuinfo)}" if accelerator is Accelerator.KVM else identity


def layout(spec: VmSpec) -> str:
    """Return the devices of a machine, as far as they must be the same in a clone.

    QEMU itself would load the state of a machine with fewer devices, into a machine whose guest knows of none of them.
    """
    return f"disks={len(spec.disks)},slots={len(spec.slots)},nics={int(spec.nic is not None)}"


def _processor(cpuinfo: str) -> str:
    """Return a short name of the host's processor model: a guest of another would use instructions it lacks."""
    lines = re.findall(r"^(?:vendor_id|cpu family|model|model name|stepping|flags)\s*:.*$", cpuinfo, re.MULTILINE)
    first_processor = "\n".join(dict.fromkeys(lines))
    return hashlib.sha256(first_processor.encode()).hexdigest()[:12]


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
