"""A VmSpec as QEMU's command line: pure, so that it is tested without QEMU.

Files reach QEMU as open descriptors, never as paths: it runs as a user that can traverse to none of them, so one
sandbox's VMM cannot open what belongs to another.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.hypervisor.base import Accelerator, Slot, VmSpec
from appliance.hypervisor.qemu import machine


@dataclass(frozen=True, slots=True)
class BootFiles:
    """Descriptors of what a machine starts from, and its command line."""

    kernel: int
    initramfs: int
    cmdline: str


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Numbers of the open files that QEMU inherits, besides the spec's tap."""

    monitor: int
    """Listening socket of the control protocol."""
    console: int
    """Listening socket of the guest's serial port."""
    memory: int
    disks: tuple[int, ...]
    slots: tuple[int | None, ...] = ()
    """Images in the spec's slots; None where one has none."""


@dataclass(frozen=True, slots=True)
class IncomingState:
    """What a machine is restored from."""

    fd: int
    describes_itself: bool
    """Whether it has a configuration and a description, as a migration has, or is the state of the devices alone."""


# QEMU would wait for both, and refuse a state that lacks them.
_DEVICES_ALONE = ("-machine", "suppress-vmdesc=on", "-global", "migration.send-configuration=off")


def fd_set(number: int) -> str:
    """Return the name under which QEMU opens what is in a descriptor set. An inherited one has its own number."""
    return f"/dev/fdset/{number}"


def boot_argv(
    binary: str, spec: VmSpec, accelerator: Accelerator, descriptors: Descriptors, files: BootFiles
) -> list[str]:
    """Return the command of a machine that boots a kernel when continued, with RAM that a snapshot can keep."""
    return [
        *_machine(binary, spec, accelerator, descriptors, memory="share=on"),
        *("-kernel", _path(files.kernel)),
        *("-initrd", _path(files.initramfs)),
        *("-append", files.cmdline),
    ]


def clone_argv(
    binary: str, spec: VmSpec, accelerator: Accelerator, descriptors: Descriptors, state: IncomingState
) -> list[str]:
    """Return the command of a machine that waits to be told to load `state`.

    It has no kernel and no initramfs: both are in the RAM it maps, and QEMU would keep copies of its own, 11-13 MiB.
    """
    devices_alone = () if state.describes_itself else _DEVICES_ALONE
    return [
        *_machine(binary, spec, accelerator, descriptors, memory="share=off,readonly=on,rom=off"),
        *devices_alone,
        *("-add-fd", f"fd={state.fd},set={state.fd}"),
        *("-incoming", "defer"),
    ]


def _machine(binary: str, spec: VmSpec, accelerator: Accelerator, descriptors: Descriptors, memory: str) -> list[str]:
    argv = [
        binary,
        *("-name", f"guest={spec.vm_id}"),
        *("-machine", f"{machine.MACHINE_TYPE},memory-backend=ram"),
        *("-accel", machine.accel(accelerator, spec.vcpus)),
        *("-cpu", machine.cpu_model(accelerator)),
        *("-smp", str(spec.vcpus)),
        *("-m", f"{spec.memory_mib}M"),
        # dump=off: a core dump of the VMM must not contain what the guest had in memory.
        "-object",
        f"memory-backend-file,id=ram,size={spec.memory_mib}M,mem-path={_path(descriptors.memory)},{memory},dump=off",
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        # Paused until told to run: somebody must be listening to the console first.
        "-S",
        # A guest that reboots or panics (with panic=-1) ends, as a container does.
        "-no-reboot",
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-chardev", f"socket,id=monitor,fd={descriptors.monitor},server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=console,fd={descriptors.console},server=on,wait=off"),
        *("-serial", "chardev:console"),
    ]
    for number, (disk, fd) in enumerate(zip(spec.disks, descriptors.disks, strict=True)):
        argv += ["-add-fd", f"fd={fd},set={fd}"]
        argv += ["-blockdev", _blockdev(f"disk{number}", fd, read_only=disk.read_only)]
        argv += ["-device", f"virtio-blk-device,drive=disk{number}"]
    for number, (slot, image) in enumerate(zip(spec.slots, descriptors.slots, strict=True)):
        argv += ["-blockdev", _slot(f"slot{number}", slot)] if image is None else _volume(f"slot{number}", image)
        argv += ["-device", f"virtio-blk-device,drive=slot{number}"]
    if spec.nic is not None:
        argv += ["-netdev", f"tap,id=net0,fd={spec.nic.tap_fd},vhost=off"]
        argv += ["-device", f"virtio-net-device,netdev=net0,mac={spec.nic.mac}"]
    return argv


def _blockdev(name: str, fd: int, *, read_only: bool) -> str:
    # locking=off: one layer file is the disk of many machines at once.
    # Through the host's page cache, which all clones of a template share.
    options = f"driver=file,node-name={name},filename={fd_set(fd)},locking=off,aio=threads,cache.direct=off"
    if read_only:
        return f"{options},read-only=on"
    # no-flush: a running sandbox does not survive a crash of its host, so its fsync need not wait for the host's
    # disk. Whoever keeps the file (a paused sandbox, a template) syncs it once, after the machine has stopped.
    return f"{options},cache.no-flush=on,discard=unmap"


def _slot(name: str, slot: Slot) -> str:
    """Return a disk without a file."""
    return f"driver=null-co,node-name={name},size={slot.size_mib * 2**20},read-zeroes=on"


def _volume(name: str, fd: int) -> list[str]:
    # Flushed when the guest says so: what is on it outlives both machine and host. The lock is the kernel's, on the
    # file: whatever our records say, no second machine writes it.
    options = f"driver=file,node-name={name},filename={fd_set(fd)},locking=on,aio=threads,cache.direct=off"
    return [*("-add-fd", f"fd={fd},set={fd}"), "-blockdev", f"{options},discard=unmap"]


def _path(fd: int) -> str:
    """Where QEMU opens a file by path only: it then needs permission on the file, but none on its directories."""
    return f"/proc/self/fd/{fd}"
