"""A Hypervisor without machines, for running the services where no guest can, or need, run.

What would be a VMM process lives in a `FakeHost`, which outlives the driver as processes outlive Cubelet. A fake
guest's whole RAM is one piece of text.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from appliance.domain.errors import VmmFailure
from appliance.hypervisor.base import (
    Accelerator,
    BootSource,
    Capabilities,
    Snapshot,
    VmProcess,
    VmSpec,
    VmState,
)
from appliance.hypervisor.deadlines import within
from appliance.hypervisor.new_directory import new_directory

# Above any pid that Linux hands out (PID_MAX_LIMIT is 4194304): nobody kills a real process by a fake's pid.
_FIRST_PID = 5_000_000


@dataclass(slots=True)
class FakeMachine:
    process: VmProcess
    spec: VmSpec
    booted: bool
    """Whether it writes its RAM to a memory file, so that a snapshot can be taken of it."""
    state: VmState
    ram: str
    exited: asyncio.Event = field(default_factory=asyncio.Event)


class FakeHost:
    """The machines of a pretended node, and what is to go wrong with them next."""

    def __init__(self, *, latency: timedelta = timedelta(0)) -> None:
        self.machines: dict[int, FakeMachine] = {}
        self.latency = latency
        """How long boot, snapshot, clone, save, resume and pause take."""
        self._pids = itertools.count(_FIRST_PID)
        self._failures: Counter[str] = Counter()

    def fail_next(self, operation: str, times: int = 1) -> None:
        """Make the next calls of `boot`, `snapshot`, `clone`, `save`, `resume` or `pause` fail."""
        self._failures[operation] += times

    def crash(self, vm: VmProcess) -> None:
        """End the machine as `kill -9` of its VMM does."""
        machine = self.find(vm)
        if machine is not None:
            machine.state = VmState.EXITED
            del self.machines[vm.pid]
            machine.exited.set()

    def find(self, vm: VmProcess) -> FakeMachine | None:
        """Return the machine that `vm` identifies, not merely one with its pid."""
        machine = self.machines.get(vm.pid)
        return machine if machine is not None and machine.process == vm else None

    def add(self, spec: VmSpec, *, booted: bool, state: VmState, ram: str) -> VmProcess:
        """Start a machine's pretended process."""
        pid = next(self._pids)
        socket = spec.runtime_dir / "control.sock"
        process = VmProcess(
            vm_id=spec.vm_id,
            pid=pid,
            start_time_ticks=pid,
            executable="/usr/bin/fake-vmm",
            control_socket=str(socket),
            runtime_dir=str(spec.runtime_dir),
        )
        socket.touch()
        self.machines[pid] = FakeMachine(process, spec, booted, state, ram)
        return process

    async def act(self, operation: str) -> None:
        """Take the time that `operation` takes, and fail if it is to fail."""
        await asyncio.sleep(self.latency.total_seconds())
        if self._failures[operation]:
            self._failures[operation] -= 1
            raise VmmFailure(f"{operation} was made to fail")


class FakeHypervisor:
    """Implements `Hypervisor`."""

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = FakeHost() if host is None else host

    async def close(self) -> None:
        """Let go of every machine without touching it."""

    async def capabilities(self) -> Capabilities:
        return Capabilities(vmm="fake", version="1", accelerator=Accelerator.TCG, dirty_page_snapshots=True)

    async def boot(self, spec: VmSpec, source: BootSource, *, deadline: timedelta) -> VmProcess:
        async with within(deadline, f"the boot of {spec.vm_id}"):
            await self.host.act("boot")
        for path in (source.kernel, source.initramfs, *_files(spec)):
            _must_exist(path)
        if spec.memory_file.exists():
            raise VmmFailure(f"{spec.memory_file}: File exists")
        spec.memory_file.write_text("")
        return self.host.add(spec, booted=True, state=VmState.RUNNING, ram="")

    async def snapshot(self, vm: VmProcess, directory: Path, *, deadline: timedelta) -> Snapshot:
        machine = self._alive(vm)
        if not machine.booted:
            raise VmmFailure(f"{vm.vm_id} was not booted, so its memory is not kept in a file")
        _must_exist(directory)
        async with within(deadline, f"the snapshot of {vm.vm_id}"):
            machine.state = VmState.PAUSED
            await self.host.act("snapshot")
        spec = machine.spec
        spec.memory_file.write_text(machine.ram)
        state = directory / "device-state"
        state.write_text("fake")
        return Snapshot(spec.memory_file, state, _machine(spec), spec.vcpus, spec.memory_mib)

    async def clone(self, spec: VmSpec, snapshot: Snapshot, *, deadline: timedelta) -> VmProcess:
        objection = snapshot.objection(spec, _machine(spec))
        if objection is not None:
            raise VmmFailure(objection)
        async with within(deadline, f"the restore of {spec.vm_id}"):
            await self.host.act("clone")
        ram = snapshot.changed_pages or snapshot.memory_file
        for path in (snapshot.memory_file, ram, snapshot.device_state, *_files(spec)):
            _must_exist(path)
        for image in _images(spec) & {image for other in self.host.machines.values() for image in _images(other.spec)}:
            raise VmmFailure(f"{image}: another machine has it")
        return self.host.add(spec, booted=False, state=VmState.PAUSED, ram=ram.read_text())

    async def save(self, vm: VmProcess, base: Snapshot, directory: Path, *, deadline: timedelta) -> Snapshot:
        machine = self._alive(vm)
        if machine.booted:
            raise VmmFailure(f"{vm.vm_id} is no clone")
        async with within(deadline, f"the save of {vm.vm_id}"):
            machine.state = VmState.PAUSED
            async with new_directory(directory) as partial:
                (partial / "device-state").write_text("fake")
                (partial / "changed-pages").write_text(machine.ram)
                await self.host.act("save")
        return replace(base, device_state=directory / "device-state", changed_pages=directory / "changed-pages")

    async def resume(self, vm: VmProcess, *, deadline: timedelta) -> None:
        await self._change(vm, VmState.RUNNING, "resume", deadline)

    async def pause(self, vm: VmProcess, *, deadline: timedelta) -> None:
        await self._change(vm, VmState.PAUSED, "pause", deadline)

    async def stop(self, vm: VmProcess) -> None:
        self.host.crash(vm)
        _remove_socket(vm)

    async def describe(self, vm: VmProcess) -> VmState:
        machine = self.host.find(vm)
        return VmState.EXITED if machine is None else machine.state

    async def wait_exit(self, vm: VmProcess) -> None:
        machine = self.host.find(vm)
        if machine is not None:
            await machine.exited.wait()

    def console(self, vm: VmProcess) -> Path:
        return Path(vm.runtime_dir) / "console.log"

    async def _change(self, vm: VmProcess, state: VmState, operation: str, deadline: timedelta) -> None:
        machine = self._alive(vm)
        async with within(deadline, f"the {operation} of {vm.vm_id}"):
            await self.host.act(operation)
        if machine.state is VmState.EXITED:
            raise VmmFailure(f"{vm.vm_id} has ended")
        machine.state = state

    def _alive(self, vm: VmProcess) -> FakeMachine:
        machine = self.host.find(vm)
        if machine is None:
            raise VmmFailure(f"{vm.vm_id} has ended")
        return machine


def _machine(spec: VmSpec) -> str:
    return f"fake/disks={len(spec.disks)},slots={len(spec.slots)},nics={int(spec.nic is not None)}"


def _files(spec: VmSpec) -> set[Path]:
    return {disk.path for disk in spec.disks} | _images(spec)


def _images(spec: VmSpec) -> set[Path]:
    return {slot.image for slot in spec.slots if slot.image is not None}


def _remove_socket(vm: VmProcess) -> None:
    Path(vm.control_socket).unlink(missing_ok=True)


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise VmmFailure(f"{path}: No such file or directory")
