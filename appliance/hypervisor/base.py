"""The seam to a VMM: what Cubelet may ask, and what it may rely on.

A VM's life: `boot` -> `snapshot` once, for a template; `clone` -> `resume` <-> `pause` -> `stop`, for a sandbox, with
`save` in between where it is to go on later, or more than once.
RAM is one file: the template's, written by the booted VM, mapped copy-on-write by every clone.

The VMM is a process of its own that outlives Cubelet. `VmProcess` is all that is needed to find it again, and is what
Cubelet writes into its record on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from appliance.domain.ids import VmId


class Accelerator(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


class VmState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this driver can do on this node, found out by running a guest."""

    vmm: str
    """`qemu`, `cloud-hypervisor` or `fake`."""
    version: str
    accelerator: Accelerator
    dirty_page_snapshots: bool
    """Whether `save` copies only the pages that the clone changed; else it copies all of its RAM."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtio block device. Order in `VmSpec.disks` is the order in the guest: vda, vdb, ..."""

    path: Path
    read_only: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """A writable virtio block device that may have another disk behind it in a clone than it had in the template.

    The guest keeps the size it saw when it was booted, so a clone's slot has that of its template's. A driver whose
    VMM has no device without a file makes one of holes in the machine's own directory.
    """

    size_mib: int
    image: Path | None = None
    """A raw disk of that size, which no two machines may have at once. None: it reads as zeros and keeps nothing."""


@dataclass(frozen=True, slots=True)
class Nic:
    """The guest's only network device, a tap the VMM receives as an open descriptor."""

    tap_fd: int
    mac: str


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the VMM process is allowed to be. None of it is optional in production."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A machine. A clone's spec must equal its template's in vcpus, memory_mib, slots, number and order of disks."""

    vm_id: VmId
    vcpus: int
    memory_mib: int
    memory_file: Path
    """RAM. `boot` creates it, shared; `clone` maps the snapshot's and ignores this field's content."""
    disks: tuple[Disk, ...]
    nic: Nic | None
    runtime_dir: Path
    """Existing directory of this VM alone, for sockets and the console log. The VMM itself needs no access to it."""
    confinement: Confinement | None
    slots: tuple[Slot, ...] = ()
    """After the disks. What a guest has flushed to the image of one survives the machine, and a crash of the host."""


@dataclass(frozen=True, slots=True)
class BootSource:
    kernel: Path
    initramfs: Path
    cmdline: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stopped machine on disk. Valid only for the `machine` it was made by."""

    memory_file: Path
    device_state: Path
    machine: str
    """VMM, version, accelerator, machine type, cpu model and devices, as one string; a driver refuses another's."""
    vcpus: int
    memory_mib: int
    changed_pages: Path | None = None
    """What RAM had in the place of pages of `memory_file`; None where that is whole, or `device_state` has it all."""

    def objection(self, spec: VmSpec, machine: str) -> str | None:
        """Return why `spec` cannot be cloned from this on `machine`; None where it can."""
        if self.machine != machine:
            return f"snapshot was made by {self.machine}, this is {machine}: the template must be built again"
        if (spec.vcpus, spec.memory_mib) != (self.vcpus, self.memory_mib):
            return (
                f"snapshot has {self.vcpus} vCPU and {self.memory_mib} MiB, "
                f"the clone was to have {spec.vcpus} vCPU and {spec.memory_mib} MiB"
            )
        return None


@dataclass(frozen=True, slots=True)
class VmProcess:
    """Identity of a VMM process: a pid alone may have been reused."""

    vm_id: VmId
    pid: int
    start_time_ticks: int
    """Field 22 of /proc/<pid>/stat: clock ticks since boot."""
    executable: str
    control_socket: str
    runtime_dir: str


class Hypervisor(Protocol):
    """Drives one VMM. Every method raises `VmmFailure` when the VMM refuses or dies, `DeadlineExceeded` when late.

    `save` also raises `DiskFull`.
    """

    async def capabilities(self) -> Capabilities:
        """Return what works here. Cheap after the first call."""
        ...

    async def boot(self, spec: VmSpec, source: BootSource, *, deadline: timedelta) -> VmProcess:
        """Start a machine from its kernel and let it run. On failure nothing of it is left."""
        ...

    async def snapshot(self, vm: VmProcess, directory: Path, *, deadline: timedelta) -> Snapshot:
        """Stop the machine and save its device state into `directory`; RAM stays in its memory file.

        Only for machines made by `boot`. The machine is left paused. A failure leaves no partial file.
        """
        ...

    async def clone(self, spec: VmSpec, snapshot: Snapshot, *, deadline: timedelta) -> VmProcess:
        """Restore `snapshot` as a new machine on the spec's own disks and tap, and leave it paused.

        RAM is shared with the snapshot until written. On failure nothing of it is left.
        """
        ...

    async def save(self, vm: VmProcess, base: Snapshot, directory: Path, *, deadline: timedelta) -> Snapshot:
        """Stop a clone of `base` and save what it has become, its disks aside, in the new directory `directory`.

        The directory appears whole and durable, or not at all; one that exists is refused. The result can be cloned any
        number of times. It needs `base.memory_file`, but nothing else of `base`, so that saves do not build chains.
        The machine is left paused, also by a failure, and can be resumed. Works on machines of a former Cubelet.
        """
        ...

    async def resume(self, vm: VmProcess, *, deadline: timedelta) -> None:
        """Let a paused machine run. Running machines are success."""
        ...

    async def pause(self, vm: VmProcess, *, deadline: timedelta) -> None:
        """Stop the machine's processors; it costs no CPU from then on. Paused machines are success."""
        ...

    async def stop(self, vm: VmProcess) -> None:
        """End the VMM process and wait until it is gone. Absent machines are success; safe to repeat."""
        ...

    async def describe(self, vm: VmProcess) -> VmState:
        """Return the state. A process that is gone, or whose pid is now another's, is EXITED; never raises for it."""
        ...

    async def wait_exit(self, vm: VmProcess) -> None:
        """Return once the process has ended, within a second of it, also for machines of a former Cubelet."""
        ...

    def console(self, vm: VmProcess) -> Path:
        """Return the path of the machine's console log, which is bounded in size."""
        ...

    async def close(self) -> None:
        """Let go of every machine without touching it. Nothing else may be called afterwards."""
        ...
