"""The Hypervisor that drives QEMU's microvm, with KVM or with TCG."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.common.threads import in_thread
from appliance.domain.errors import DeadlineExceeded, VmmFailure
from appliance.hypervisor import console, errtext
from appliance.hypervisor.base import (
    Accelerator,
    BootSource,
    Capabilities,
    Snapshot,
    VmProcess,
    VmSpec,
    VmState,
)
from appliance.hypervisor.confinement import confined, prefer_for_oom
from appliance.hypervisor.deadlines import together, within
from appliance.hypervisor.new_directory import new_directory
from appliance.hypervisor.page_file import apply_changed_pages, save_changed_pages
from appliance.hypervisor.private_memory import PrivateMemory, private_memory
from appliance.hypervisor.process import ProcessWatch, executable, spawn, start_time_ticks
from appliance.hypervisor.qemu import machine, tsc
from appliance.hypervisor.qemu.argv import BootFiles, Descriptors, IncomingState, boot_argv, clone_argv
from appliance.hypervisor.qemu.attachment import (
    CONSOLE_LOG,
    CONSOLE_SOCKET,
    MONITOR_SOCKET,
    Attachment,
    remove_sockets,
)
from appliance.hypervisor.qemu.descriptors import created_memory, listening, opened, opened_disk, seal
from appliance.hypervisor.qemu.migration import describes_itself, load_state, save_devices, save_state
from appliance.hypervisor.qemu.qmp import QmpClient
from appliance.hypervisor.scopes.base import Limits, Scopes

log = structlog.get_logger()

DEVICE_STATE = "device-state"
CHANGED_PAGES = "changed-pages"

_DYING = timedelta(seconds=2)


class QemuHypervisor:
    """Implements `Hypervisor`.

    `restore_concurrency` clones are restored at once: more of them only slow each other down, since a restore is
    bound by the host's processors. `control_deadline` bounds the calls whose caller gives no deadline.
    `dirty_page_snapshots` makes `save` copy changed pages only, in a way that QEMU does not document: not to be had
    without a look at `self_test`.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        scopes: Scopes,
        binary: Path = Path("/usr/bin/qemu-system-x86_64"),
        restore_concurrency: int = 3,
        restore_attempts: int = 2,
        control_deadline: timedelta = timedelta(seconds=10),
        dirty_page_snapshots: bool = False,
    ) -> None:
        self._accelerator = accelerator
        self._scopes = scopes
        self._binary = str(binary)
        self._restores = asyncio.Semaphore(restore_concurrency)
        self._restore_attempts = restore_attempts
        self._control_deadline = control_deadline
        self._dirty_page_snapshots = dirty_page_snapshots
        self._version: str | None = None
        self._identity: str | None = None
        self._attachments: dict[tuple[int, int], Attachment] = {}
        self._booted: dict[tuple[int, int], VmSpec] = {}
        self.restore_retries = 0
        """How many restores had to be tried again since this driver was made."""

    async def close(self) -> None:
        """Let go of every machine without touching it."""
        for attachment in self._attachments.values():
            attachment.close()
        self._attachments.clear()
        await self._scopes.close()

    async def capabilities(self) -> Capabilities:
        if self._version is None:
            self._version = await machine.installed_version(self._binary, deadline=self._control_deadline)
        return Capabilities(
            vmm="qemu",
            version=self._version,
            accelerator=self._accelerator,
            dirty_page_snapshots=self._dirty_page_snapshots,
        )

    async def boot(self, spec: VmSpec, source: BootSource, *, deadline: timedelta) -> VmProcess:
        _check_devices(spec)
        async with within(deadline, f"the boot of {spec.vm_id}"):
            with ExitStack() as files:
                boot = BootFiles(
                    kernel=files.enter_context(opened(source.kernel, os.O_RDONLY)),
                    initramfs=files.enter_context(opened(source.initramfs, os.O_RDONLY)),
                    cmdline=source.cmdline + tsc.kernel_arguments(self._accelerator),
                )
                vm = await self._launch(
                    spec,
                    files.enter_context(created_memory(spec)),
                    argv=lambda descriptors: boot_argv(self._binary, spec, self._accelerator, descriptors, boot),
                    inherit=(boot.kernel, boot.initramfs),
                    bring_up=_run,
                )
            self._booted[_key(vm)] = spec
            return vm

    async def snapshot(self, vm: VmProcess, directory: Path, *, deadline: timedelta) -> Snapshot:
        spec = self._booted.get(_key(vm))
        if spec is None:
            raise VmmFailure(f"{vm.vm_id} was not booted by this Cubelet, so its memory is not kept in a file")
        made_by = await self._machine(spec)
        async with within(deadline, f"the snapshot of {vm.vm_id}"):
            await save_state(await self._control(vm), directory / DEVICE_STATE)
            await asyncio.to_thread(seal, spec.memory_file)
        return Snapshot(
            memory_file=spec.memory_file,
            device_state=directory / DEVICE_STATE,
            machine=made_by,
            vcpus=spec.vcpus,
            memory_mib=spec.memory_mib,
        )

    async def clone(self, spec: VmSpec, snapshot: Snapshot, *, deadline: timedelta) -> VmProcess:
        _check_devices(spec)
        objection = snapshot.objection(spec, await self._machine(spec))
        if objection is not None:
            raise VmmFailure(objection)
        what = f"the restore of {spec.vm_id}"
        async with within(deadline, what), self._restores:
            for _ in range(self._restore_attempts - 1):
                try:
                    # A restore that hangs must leave time for another.
                    async with within(deadline / self._restore_attempts, what):
                        return await self._restore(spec, snapshot)
                except (VmmFailure, DeadlineExceeded) as failure:
                    self.restore_retries += 1
                    log.warning("restore_retried", vm_id=spec.vm_id, reason=failure.message)
            return await self._restore(spec, snapshot)

    async def save(self, vm: VmProcess, base: Snapshot, directory: Path, *, deadline: timedelta) -> Snapshot:
        async with within(deadline, f"the save of {vm.vm_id}"), new_directory(directory) as partial:
            qmp = await self._control(vm)
            with private_memory(vm.pid, base.memory_file) as memory:
                if self._dirty_page_snapshots:
                    await save_devices(
                        qmp,
                        partial / DEVICE_STATE,
                        meanwhile=lambda: in_thread(_save_pages, memory, partial / CHANGED_PAGES),
                    )
                else:
                    # A clone's RAM is its own, so QEMU saves it with the devices.
                    await save_state(qmp, partial / DEVICE_STATE)
        return replace(
            base,
            device_state=directory / DEVICE_STATE,
            changed_pages=directory / CHANGED_PAGES if self._dirty_page_snapshots else None,
        )

    async def resume(self, vm: VmProcess, *, deadline: timedelta) -> None:
        async with within(deadline, f"the resume of {vm.vm_id}"):
            await (await self._control(vm)).execute("cont")

    async def pause(self, vm: VmProcess, *, deadline: timedelta) -> None:
        async with within(deadline, f"the pause of {vm.vm_id}"):
            await (await self._control(vm)).execute("stop")

    async def stop(self, vm: VmProcess) -> None:
        attachment = self._attachment(vm)
        if attachment is not None:
            # All that the guest has written is in the host's page cache: QEMU buffers nothing that a signal loses.
            async with within(self._control_deadline, f"the end of {vm.vm_id}"):
                await attachment.kill()
            self._forget(vm)
        remove_sockets(Path(vm.runtime_dir))

    async def describe(self, vm: VmProcess) -> VmState:
        attachment = self._attachment(vm)
        if attachment is None:
            return VmState.EXITED
        try:
            async with within(self._control_deadline, f"an answer of {vm.vm_id}"):
                status = await (await attachment.qmp()).execute("query-status")
        except VmmFailure:
            # A process that is being killed closes its sockets first.
            if await attachment.watch.ended_within(_DYING):
                return VmState.EXITED
            raise
        return VmState.RUNNING if status["running"] else VmState.PAUSED

    async def wait_exit(self, vm: VmProcess) -> None:
        attachment = self._attachment(vm)
        if attachment is None:
            return
        await attachment.follow_console()
        await attachment.wait_exit()
        self._forget(vm)

    def console(self, vm: VmProcess) -> Path:
        return Path(vm.runtime_dir) / CONSOLE_LOG

    async def _restore(self, spec: VmSpec, snapshot: Snapshot) -> VmProcess:
        with ExitStack() as files:
            memory = files.enter_context(opened(snapshot.memory_file, os.O_RDONLY))
            # A description of its own: QEMU reads from where its offset is.
            state = files.enter_context(opened(snapshot.device_state, os.O_RDONLY))
            incoming = IncomingState(state, await in_thread(describes_itself, state))
            pages = None
            if snapshot.changed_pages is not None:
                pages = files.enter_context(opened(snapshot.changed_pages, os.O_RDONLY))

            async def load(attachment: Attachment) -> None:
                qmp = await attachment.qmp()
                if pages is not None:
                    # Before the devices: virtio looks into its queues, which are in RAM, while it is loaded.
                    with private_memory(attachment.watch.pid, snapshot.memory_file) as ram:
                        await in_thread(apply_changed_pages, pages, ram)
                await load_state(qmp, state)

            return await self._launch(
                spec,
                memory,
                argv=lambda descriptors: clone_argv(self._binary, spec, self._accelerator, descriptors, incoming),
                inherit=(state,),
                bring_up=load,
            )

    async def _launch(
        self,
        spec: VmSpec,
        memory: int,
        *,
        argv: Callable[[Descriptors], list[str]],
        inherit: Sequence[int],
        bring_up: Callable[[Attachment], Awaitable[None]],
    ) -> VmProcess:
        """Start QEMU and bring the machine up; whatever fails or is cancelled, nothing of it is left."""
        limits = Limits.of(spec)
        async with AsyncExitStack() as undo:
            undo.callback(remove_sockets, spec.runtime_dir)
            undo.callback(console.remove, spec.runtime_dir / CONSOLE_LOG)
            errors = errtext.create()
            undo.callback(os.close, errors)
            pid = _spawn(spec, memory, argv, inherit, errors)
            attachment = Attachment(ProcessWatch(pid), spec.runtime_dir)
            undo.callback(attachment.close)
            undo.push_async_callback(attachment.kill)
            prefer_for_oom(pid)

            async def start() -> None:
                await attachment.follow_console()
                await bring_up(attachment)

            try:
                # The scope is made while QEMU starts up, and costs the restore nothing.
                await together(self._scopes.adopt(spec.vm_id, pid, limits), start())
                started, program = start_time_ticks(pid), executable(pid)
                if started is None or program is None:
                    raise VmmFailure("QEMU ended")
            except VmmFailure as failure:
                said = errtext.read(errors)
                raise VmmFailure(f"{spec.vm_id}: {failure.message}{f': {said}' if said else ''}") from failure
            vm = VmProcess(
                vm_id=spec.vm_id,
                pid=pid,
                start_time_ticks=started,
                executable=program,
                control_socket=str(spec.runtime_dir / MONITOR_SOCKET),
                runtime_dir=str(spec.runtime_dir),
            )
            self._attachments[_key(vm)] = attachment
            undo.pop_all()
            os.close(errors)
            return vm

    def _attachment(self, vm: VmProcess) -> Attachment | None:
        """Return what we hold of `vm`, taken hold of now if need be; None where it has ended."""
        attachment = self._attachments.get(_key(vm))
        if attachment is None:
            watch = ProcessWatch.of(vm)
            if watch is None:
                return None
            attachment = self._attachments[_key(vm)] = Attachment(watch, Path(vm.runtime_dir))
        return attachment

    async def _control(self, vm: VmProcess) -> QmpClient:
        attachment = self._attachment(vm)
        if attachment is None:
            raise VmmFailure(f"{vm.vm_id} has ended")
        return await attachment.qmp()

    def _forget(self, vm: VmProcess) -> None:
        self._booted.pop(_key(vm), None)
        attachment = self._attachments.pop(_key(vm), None)
        if attachment is not None:
            attachment.close()

    async def _machine(self, spec: VmSpec) -> str:
        """Return what `Snapshot.machine` is for a machine like `spec`."""
        if self._identity is None:
            version = (await self.capabilities()).version
            self._identity = machine.identity(version, self._accelerator, _cpuinfo())
        return f"{self._identity}/{machine.layout(spec)}"


def _save_pages(memory: PrivateMemory, path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        save_changed_pages(memory, fd)
        os.fsync(fd)
    finally:
        os.close(fd)


async def _run(attachment: Attachment) -> None:
    await (await attachment.qmp()).execute("cont")


def _spawn(
    spec: VmSpec, memory: int, argv: Callable[[Descriptors], list[str]], inherit: Sequence[int], errors: int
) -> int:
    # Our copies of the sockets are closed at once: if QEMU dies, connecting must fail instead of waiting.
    with ExitStack() as handed_over:
        descriptors = Descriptors(
            monitor=handed_over.enter_context(listening(spec.runtime_dir / MONITOR_SOCKET)),
            console=handed_over.enter_context(listening(spec.runtime_dir / CONSOLE_SOCKET)),
            memory=memory,
            disks=tuple(handed_over.enter_context(opened_disk(disk)) for disk in spec.disks),
            slots=tuple(
                handed_over.enter_context(opened(slot.image, os.O_RDWR)) if slot.image is not None else None
                for slot in spec.slots
            ),
        )
        images = (fd for fd in descriptors.slots if fd is not None)
        tap = () if spec.nic is None else (spec.nic.tap_fd,)
        return spawn(
            confined(argv(descriptors), spec.confinement),
            inherit=(descriptors.monitor, descriptors.console, *descriptors.disks, *images, memory, *tap, *inherit),
            stderr=errors,
        )


def _check_devices(spec: VmSpec) -> None:
    devices = len(spec.disks) + len(spec.slots) + (spec.nic is not None)
    if devices > machine.MAX_DEVICES:
        raise VmmFailure(f"{spec.vm_id} needs {devices} devices, QEMU's microvm has {machine.MAX_DEVICES}")


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()


def _key(vm: VmProcess) -> tuple[int, int]:
    return vm.pid, vm.start_time_ticks
