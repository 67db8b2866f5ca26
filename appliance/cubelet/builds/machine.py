"""The VM that a build runs in: booted from layers and a disk, in a network like any sandbox's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from appliance.clients.guest import GuestClient
from appliance.contracts.node import BuildRequest
from appliance.cubelet.guest_image import GuestImage
from appliance.cubelet.runtime import Stage, VmRecord
from appliance.cubelet.services.machines import Machines, guest_disks, new_vm_id
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import MEMORY, UPPER
from appliance.cubevs.base import GUEST_MAC, EgressPolicy, Switch
from appliance.domain.ids import BuildId, SandboxId, TemplateId
from appliance.hypervisor.base import BootSource, Confinement, Hypervisor, Nic, VmProcess, VmSpec


@dataclass(frozen=True, slots=True)
class BuildMachine:
    """A guest whose agent has its identity."""

    vm: VmProcess
    guest: GuestClient
    envd_version: str


class BuildMachines:
    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        switch: Switch,
        taps: TapPool,
        machines: Machines,
        guest_image: GuestImage,
        boot_deadline: timedelta,
        init_deadline: timedelta,
    ) -> None:
        self._hypervisor = hypervisor
        self._switch = switch
        self._taps = taps
        self._machines = machines
        self._guest_image = guest_image
        self._boot_deadline = boot_deadline
        self._init_deadline = init_deadline

    @property
    def agent_disk(self) -> Path:
        return self._guest_image.agent_disk

    @asynccontextmanager
    async def booted(
        self,
        request: BuildRequest,
        *,
        workspace: Path,
        layers: tuple[Path, ...],
        default_user: str | None,
        default_workdir: str | None,
    ) -> AsyncIterator[BuildMachine]:
        """Boot from `layers` and the workspace's disk, with RAM in the workspace; nothing is left after the block."""
        async with AsyncExitStack() as undo:
            record, spec = await self._prepare(request, workspace, layers, undo)
            vm = await self._boot(record, spec, undo)
            guest = GuestClient(record.address)
            undo.push_async_callback(guest.close)
            await guest.wait_healthy(deadline=self._boot_deadline)
            identity = self._machines.identity(record, default_user=default_user, default_workdir=default_workdir)
            version = await guest.init(identity, deadline=self._init_deadline)
            yield BuildMachine(vm, guest, version)

    async def _prepare(
        self, request: BuildRequest, workspace: Path, layers: tuple[Path, ...], undo: AsyncExitStack
    ) -> tuple[VmRecord, VmSpec]:
        tap = await self._taps.acquire()
        vm_id = new_vm_id()
        record = VmRecord(
            vm_id=vm_id,
            template_id=TemplateId(request.template_id),
            build_id=BuildId(request.build_id),
            envd_version="",
            uid=self._machines.uid_of(tap),
            tap_name=tap.name,
            tap_ifindex=tap.ifindex,
            address=tap.address,
            boot_id=self._machines.boot_id,
            stage=Stage.PREPARING,
        )
        self._machines.create_record(record)
        # From here on one call frees tap, process, runtime directory and record, now or after a restart.
        undo.push_async_callback(self._machines.destroy_newest, vm_id)
        # Steps and start commands may download; the fixed denials of CubeVS hold for builds as for sandboxes.
        await self._switch.admit(tap, SandboxId(vm_id), EgressPolicy())
        spec = VmSpec(
            vm_id=vm_id,
            vcpus=request.vcpus,
            memory_mib=request.memory_mib,
            memory_file=workspace / MEMORY,
            disks=guest_disks(self._guest_image.agent_disk, workspace / UPPER, layers),
            nic=None,
            runtime_dir=self._machines.make_runtime_dir(vm_id),
            confinement=Confinement(uid=record.uid, gid=record.uid),
        )
        return record, spec

    async def _boot(self, record: VmRecord, spec: VmSpec, undo: AsyncExitStack) -> VmProcess:
        tap_fd = self._switch.open_tap(record.tap)
        try:
            vm = await self._hypervisor.boot(
                replace(spec, nic=Nic(tap_fd=tap_fd, mac=GUEST_MAC)),
                BootSource(
                    kernel=self._guest_image.kernel,
                    initramfs=self._guest_image.initramfs,
                    cmdline=self._guest_image.cmdline,
                ),
                deadline=self._boot_deadline,
            )
        finally:
            os.close(tap_fd)
        undo.push_async_callback(self._hypervisor.stop, vm)
        self._machines.save(record.model_copy(update={"process": vm}))
        return vm
