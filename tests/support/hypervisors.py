"""What the contract suite needs to know about a machine that only its driver can tell: one harness a driver."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from appliance.domain.ids import VmId
from appliance.hypervisor.base import Accelerator, BootSource, Disk, Hypervisor, Slot, Snapshot, VmProcess, VmSpec
from appliance.hypervisor.fake import FakeHost, FakeHypervisor
from appliance.hypervisor.process import ProcessWatch, start_time_ticks
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.scopes.session import SessionScopes
from tests.support import tiny_guest

PATIENCE = timedelta(seconds=60)
"""Deadline of what is expected to succeed: an emulated machine on a busy host is slow."""


class Harness(Protocol):
    source: BootSource

    @property
    def driver(self) -> Hypervisor: ...

    async def restart(self) -> None:
        """Replace the driver by a new one that knows nothing, as a restart of Cubelet does."""
        ...

    def spec(self, name: str, word: str = "") -> VmSpec:
        """Return a machine with a directory and disks of its own, whose guest will find `word` on its disk."""
        ...

    async def tell(self, vm: VmProcess, word: str) -> None:
        """Make the guest add `word` to its RAM; it does so while it is running."""
        ...

    async def hears(self, vm: VmProcess, *words: str) -> None:
        """Return once the guest's RAM holds exactly these words, in this order."""
        ...

    async def stays(self, vm: VmProcess, *words: str) -> None:
        """Return after a while in which the guest's RAM held these words and no others."""
        ...

    def crash(self, vm: VmProcess) -> None:
        """End the VMM as `kill -9` does."""
        ...

    def delay(self) -> None:
        """Make operations take more than a few milliseconds, where they do not anyway."""
        ...

    def leftovers(self) -> set[str]:
        """Return the processes and sockets of machines that exist now."""
        ...

    async def close(self) -> None:
        """End every machine."""
        ...


async def make_template(harness: Harness, slots: tuple[Slot, ...] = ()) -> Snapshot:
    """Boot a machine, let its guest learn the word `template`, and snapshot it."""
    spec = replace(harness.spec("template", word="template"), slots=slots)
    vm = await harness.driver.boot(spec, harness.source, deadline=PATIENCE)
    await harness.hears(vm, "template")
    snapshot = await harness.driver.snapshot(vm, spec.runtime_dir, deadline=PATIENCE)
    await harness.driver.stop(vm)
    return snapshot


def make_spec(root: Path, name: str, disks: tuple[Disk, ...]) -> VmSpec:
    runtime_dir = root / name
    runtime_dir.mkdir()
    return VmSpec(
        vm_id=VmId(f"{name}-{uuid.uuid4().hex[:12]}"),
        vcpus=1,
        memory_mib=192,
        memory_file=runtime_dir / "memory",
        disks=disks,
        nic=None,
        runtime_dir=runtime_dir,
        confinement=None,
    )


class FakeHarness:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._host = FakeHost()
        self.driver = FakeHypervisor(self._host)
        for name in ("kernel", "initramfs", "disk"):
            (root / name).touch()
        self.source = BootSource(root / "kernel", root / "initramfs", cmdline="")
        self._words: dict[VmId, list[str]] = {}

    async def restart(self) -> None:
        await self.driver.close()
        self.driver = FakeHypervisor(self._host)

    def spec(self, name: str, word: str = "") -> VmSpec:
        spec = make_spec(self._root, name, (Disk(self._root / "disk", read_only=True),))
        self._words[spec.vm_id] = [word]
        return spec

    async def tell(self, vm: VmProcess, word: str) -> None:
        self._words[vm.vm_id].append(word)

    async def hears(self, vm: VmProcess, *words: str) -> None:
        self._run_guest(vm)
        assert self._ram(vm) == words

    async def stays(self, vm: VmProcess, *words: str) -> None:
        await self.hears(vm, *words)

    def crash(self, vm: VmProcess) -> None:
        self._host.crash(vm)

    def delay(self) -> None:
        self._host.latency = timedelta(seconds=1)

    def leftovers(self) -> set[str]:
        return {str(pid) for pid in self._host.machines} | {str(path) for path in self._root.rglob("*.sock")}

    async def close(self) -> None:
        await self.driver.close()

    def _run_guest(self, vm: VmProcess) -> None:
        machine = self._host.find(vm)
        if machine is not None and machine.state == "running":
            machine.ram = " ".join([machine.ram, *self._words[vm.vm_id]]).strip()
            self._words[vm.vm_id].clear()

    def _ram(self, vm: VmProcess) -> tuple[str, ...]:
        machine = self._host.find(vm)
        assert machine is not None
        return tuple(machine.ram.split())


class QemuHarness:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.dirty_page_snapshots = True
        """What drivers made from now on are told to use."""
        self._specs: dict[VmId, VmSpec] = {}
        self.driver = self._new_driver()
        guest = tiny_guest.prepare()
        self.source = BootSource(guest.kernel, guest.initramfs, tiny_guest.CMDLINE)

    async def restart(self) -> None:
        await self.driver.close()
        self.driver = self._new_driver()

    def spec(self, name: str, word: str = "") -> VmSpec:
        disk = self._root / f"{name}.disk"
        tiny_guest.write_word(disk, word)
        spec = make_spec(self._root, name, (Disk(disk, read_only=False),))
        self._specs[spec.vm_id] = spec
        return spec

    async def tell(self, vm: VmProcess, word: str) -> None:
        tiny_guest.write_word(self._specs[vm.vm_id].disks[0].path, word)

    async def hears(self, vm: VmProcess, *words: str) -> None:
        await tiny_guest.printed(self.driver.console(vm), _line(words), seconds=PATIENCE.total_seconds())

    async def stays(self, vm: VmProcess, *words: str) -> None:
        # Several rounds of the guest's loop: it would have printed another line.
        await asyncio.sleep(0.5)
        console = self.driver.console(vm)
        last = tiny_guest.last_words(console)
        assert last is None or last == _line(words)

    def crash(self, vm: VmProcess) -> None:
        os.kill(vm.pid, signal.SIGKILL)

    def delay(self) -> None:
        """A restore takes longer anyway."""

    def leftovers(self) -> set[str]:
        sockets = {str(path) for path in self._root.rglob("*.sock")}
        return sockets | {vm_id for vm_id in self._specs if _processes_of(vm_id)}

    async def close(self) -> None:
        await self.driver.close()
        for vm_id in self._specs:
            for pid in _processes_of(vm_id):
                watch = ProcessWatch(pid)
                watch.kill()
                await watch.wait()
                watch.close()

    def _new_driver(self) -> QemuHypervisor:
        return QemuHypervisor(
            accelerator=Accelerator.TCG, scopes=SessionScopes(), dirty_page_snapshots=self.dirty_page_snapshots
        )


def _line(words: tuple[str, ...]) -> str:
    return f"{tiny_guest.READY} {' '.join(words)}."


def _processes_of(vm_id: VmId) -> list[int]:
    """Return the pids of live QEMU processes started for `vm_id`, which is in their command line."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (directory / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(directory.name)
        if f"guest={vm_id}".encode() in arguments and start_time_ticks(pid) is not None:
            found.append(pid)
    return found
