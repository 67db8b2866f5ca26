from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from appliance.domain.ids import VmId
from appliance.hypervisor.base import Accelerator, Disk, Nic, Slot, VmSpec
from appliance.hypervisor.qemu.argv import BootFiles, Descriptors, IncomingState, boot_argv, clone_argv

SPEC = VmSpec(
    vm_id=VmId("i123"),
    vcpus=1,
    memory_mib=512,
    memory_file=Path("/secret/memory"),
    disks=(Disk(Path("/secret/agent"), read_only=True), Disk(Path("/secret/upper"), read_only=False)),
    nic=Nic(tap_fd=9, mac="02:fc:00:00:00:05"),
    runtime_dir=Path("/secret/run"),
    confinement=None,
)
DESCRIPTORS = Descriptors(monitor=3, console=4, memory=5, disks=(6, 7))
BOOT = BootFiles(kernel=10, initramfs=11, cmdline="console=ttyS0 quiet")


def boot(spec: VmSpec = SPEC, accelerator: Accelerator = Accelerator.TCG) -> list[str]:
    return boot_argv("qemu", spec, accelerator, DESCRIPTORS, BOOT)


def clone(spec: VmSpec = SPEC, accelerator: Accelerator = Accelerator.TCG, *, devices_alone: bool = False) -> list[str]:
    state = IncomingState(12, describes_itself=not devices_alone)
    return clone_argv("qemu", spec, accelerator, DESCRIPTORS, state)


def values(argv: list[str], option: str) -> list[str]:
    """Return the value of each `option` in `argv`, in order."""
    return [value for name, value in pairwise(argv) if name == option]


@pytest.mark.parametrize("argv", [boot(), clone()], ids=["boot", "clone"])
def test_files_are_named_by_descriptor_only(argv: list[str]) -> None:
    assert not any("/secret" in argument for argument in argv)


@pytest.mark.parametrize("accelerator", list(Accelerator))
def test_clone_has_the_machine_of_its_template(accelerator: Accelerator) -> None:
    for option in ("-machine", "-accel", "-cpu", "-smp", "-m", "-device", "-serial"):
        assert values(boot(accelerator=accelerator), option) == values(clone(accelerator=accelerator), option)


def test_memory_is_shared_by_the_template_and_copied_on_write_by_clones() -> None:
    (template,), (copy,) = values(boot(), "-object"), values(clone(), "-object")
    assert "mem-path=/proc/self/fd/5,share=on" in template
    assert "mem-path=/proc/self/fd/5,share=off,readonly=on,rom=off" in copy


def test_clone_has_no_kernel_and_waits_for_its_state() -> None:
    argv = clone()
    assert not {"-kernel", "-initrd", "-append"} & set(argv)
    assert values(argv, "-incoming") == ["defer"]
    assert "fd=12,set=12" in values(argv, "-add-fd")


def test_only_the_state_of_devices_alone_is_loaded_without_its_configuration_and_description() -> None:
    assert values(clone(devices_alone=True), "-global") == ["migration.send-configuration=off"]
    assert "suppress-vmdesc=on" in values(clone(devices_alone=True), "-machine")
    assert values(clone(), "-global") == []
    assert not any("suppress-vmdesc" in machine for machine in values(clone(), "-machine"))


def test_boot_has_its_kernel_and_command_line() -> None:
    argv = boot()
    assert values(argv, "-kernel") == ["/proc/self/fd/10"]
    assert values(argv, "-initrd") == ["/proc/self/fd/11"]
    assert values(argv, "-append") == ["console=ttyS0 quiet"]
    assert "-incoming" not in argv


def test_disks_keep_their_order_and_their_mode() -> None:
    agent, upper = values(boot(), "-blockdev")
    assert "filename=/dev/fdset/6" in agent
    assert "read-only=on" in agent
    assert "filename=/dev/fdset/7" in upper
    assert "read-only" not in upper
    assert values(boot(), "-device")[:2] == ["virtio-blk-device,drive=disk0", "virtio-blk-device,drive=disk1"]


def test_network_device_is_the_inherited_tap() -> None:
    assert values(boot(), "-netdev") == ["tap,id=net0,fd=9,vhost=off"]
    assert "virtio-net-device,netdev=net0,mac=02:fc:00:00:00:05" in values(boot(), "-device")


def test_machine_without_network_has_no_network_device() -> None:
    argv = boot(replace(SPEC, nic=None))
    assert "-netdev" not in argv
    assert not any("virtio-net" in device for device in values(argv, "-device"))


def test_qemu_is_confined_and_brings_no_devices_of_its_own() -> None:
    argv = boot()
    assert {"-nodefaults", "-no-user-config", "-no-reboot", "-S"} <= set(argv)
    assert values(argv, "-display") == ["none"]
    assert values(argv, "-sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]


def test_one_processor_is_translated_by_one_thread() -> None:
    assert values(boot(), "-accel") == ["tcg,tb-size=256,thread=single"]
    assert values(boot(replace(SPEC, vcpus=2)), "-accel") == ["tcg,tb-size=256,thread=multi"]
    assert values(boot(accelerator=Accelerator.KVM), "-accel") == ["kvm"]


@pytest.mark.parametrize("argv", [boot(), clone()], ids=["boot", "clone"])
def test_process_can_be_found_by_the_id_of_its_machine(argv: list[str]) -> None:
    assert values(argv, "-name") == ["guest=i123"]


def test_slots_come_after_the_disks_and_have_a_file_only_where_they_have_a_volume() -> None:
    spec = replace(SPEC, slots=(Slot(64, Path("/secret/volume")), Slot(64)))
    descriptors = replace(DESCRIPTORS, slots=(8, None))
    argv = clone_argv("qemu", spec, Accelerator.TCG, descriptors, IncomingState(12, describes_itself=True))
    volume, empty = values(argv, "-blockdev")[2:]
    assert "filename=/dev/fdset/8" in volume
    assert "locking=on" in volume
    assert "no-flush" not in volume
    assert empty == "driver=null-co,node-name=slot1,size=67108864,read-zeroes=on"
    assert [name.split("drive=")[-1] for name in values(argv, "-device")[:4]] == ["disk0", "disk1", "slot0", "slot1"]
    assert not any("/secret" in argument for argument in argv)
