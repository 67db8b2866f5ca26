from __future__ import annotations

import pytest

from appliance.hypervisor.base import Accelerator
from appliance.hypervisor.qemu.tsc import host_khz, kernel_arguments

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\ncpu MHz\t\t: 2596.136\nflags\t\t: fpu tsc constant_tsc {flags}\n"


def test_rate_is_read_where_the_host_shows_it() -> None:
    assert host_khz(CPUINFO.format(flags="nonstop_tsc")) == 2596136


@pytest.mark.parametrize(
    "cpuinfo",
    [CPUINFO.format(flags="aperfmperf"), CPUINFO.replace("constant_tsc", ""), "processor\t: 0\n", ""],
    ids=["momentary speed", "rate not constant", "nothing known", "empty"],
)
def test_rate_is_not_guessed(cpuinfo: str) -> None:
    assert host_khz(cpuinfo) is None


def test_kvm_guests_measure_it_themselves() -> None:
    assert kernel_arguments(Accelerator.KVM) == ""
