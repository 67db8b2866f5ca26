"""The rate of the guest's time stamp counter under TCG, told to its kernel instead of being measured by it.

Under TCG the guest reads the host's counter. The kernel would calibrate it against the emulated PIT, which fails
when the host is busy; a microvm has no other timer, and the boot hangs there for ever.
"""

from __future__ import annotations

import re
from pathlib import Path

from appliance.hypervisor.base import Accelerator

_CPUINFO = Path("/proc/cpuinfo")


def host_khz(cpuinfo: str) -> int | None:
    """Return the rate in kHz from the text of /proc/cpuinfo; None where it shows the cores' momentary speed instead.

    It shows that where the processor counts its own cycles (`aperfmperf`): on bare metal, hardly ever in a VM.
    """
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    mhz = re.search(r"^cpu MHz\s*:\s*([0-9.]+)$", cpuinfo, re.MULTILINE)
    if flags is None or mhz is None or "aperfmperf" in flags[1].split() or "constant_tsc" not in flags[1].split():
        return None
    return round(float(mhz[1]) * 1000)


def kernel_arguments(accelerator: Accelerator) -> str:
    """Return what to append to a guest kernel's command line; empty where nothing is needed or known."""
    if accelerator is not Accelerator.TCG:
        return ""
    khz = host_khz(_CPUINFO.read_text())
    return "" if khz is None else f" tsc_early_khz={khz}"
