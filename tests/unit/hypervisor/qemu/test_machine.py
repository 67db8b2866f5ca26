from __future__ import annotations

from pathlib import Path

import pytest

from appliance.domain.errors import VmmFailure
from appliance.domain.ids import VmId
from appliance.hypervisor.base import Accelerator, Disk, Nic, VmSpec
from appliance.hypervisor.qemu.machine import identity, layout, parse_version

CPUINFO = "vendor_id\t: GenuineIntel\nmodel\t\t: 143\nflags\t\t: fpu avx512f\ncpu MHz\t\t: {mhz}\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright",
            "1:10.0.2+ds-2+deb13u1~bpo12+1",
        ),
        ("QEMU emulator version 10.1.0 (qemu-10.1.0-3.oc9)\nCopyright", "qemu-10.1.0-3.oc9"),
        ("QEMU emulator version 10.2.50\nCopyright", "10.2.50"),
    ],
)
def test_version_keeps_what_tells_builds_apart(text: str, version: str) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)", "something else", ""])
def test_too_old_or_foreign_programs_are_refused(text: str) -> None:
    with pytest.raises(VmmFailure):
        parse_version(text)


def test_identity_differs_where_a_snapshot_would_not_fit() -> None:
    other_processor = CPUINFO.replace("avx512f", "avx2")
    identities = {
        identity("10.0.2", Accelerator.TCG, CPUINFO),
        identity("10.0.3", Accelerator.TCG, CPUINFO),
        identity("10.0.2", Accelerator.KVM, CPUINFO),
        identity("10.0.2", Accelerator.KVM, other_processor),
    }
    assert len(identities) == 4


def test_identity_under_tcg_does_not_depend_on_the_host() -> None:
    assert identity("10.0.2", Accelerator.TCG, CPUINFO) == identity("10.0.2", Accelerator.TCG, "")


def test_identity_does_not_depend_on_the_momentary_clock_rate_or_number_of_processors() -> None:
    one, two = CPUINFO.format(mhz=2500), CPUINFO.format(mhz=800) + CPUINFO.format(mhz=900)
    assert identity("10.0.2", Accelerator.KVM, one) == identity("10.0.2", Accelerator.KVM, two)


def test_layout_differs_where_a_guest_would_miss_a_device() -> None:
    disk, nic = Disk(Path("disk"), read_only=True), Nic(tap_fd=3, mac="02:fc:00:00:00:05")
    specs = [
        VmSpec(VmId("vm"), 1, 256, Path("memory"), disks, network, Path("run"), None)
        for disks in ((disk,), (disk, disk))
        for network in (None, nic)
    ]
    assert len({layout(spec) for spec in specs}) == 4
