"""The VM that a build runs in: booted from layers and a disk, in a network like any sandbox's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.clients.guest import GuestClient, Identity
from appliance.common.failpoints import reach
from appliance.contracts.node import BuildRequest
from appliance.cubelet.runtime import Stage, VmRecord
from appliance.cubelet.services.booting import Boots
from appliance.cubelet.services.guest_disks import guest_disks, volume_slots
from appliance.cubelet.services.machines import Machines, behind, new_vm_id
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import MEMORY, UPPER
from appliance.cubevs.base import EgressPolicy, Switch, Tap
from appliance.domain.ids import BuildId, SandboxId, TemplateId
from appliance.hypervisor.base import Confinement, Hypervisor, VmProcess, VmSpec
from appliance.hypervisor.lifetime import while_alive


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
        boots: Boots,
        agent_disk: Path,
        volume_mib: int,
        boot_deadline: timedelta,
        init_deadline: timedelta,
    ) -> None:
        self._hypervisor = hypervisor
        self._switch = switch
        self._taps = taps
        self._machines = machines
        self._boots = boots
        self.agent_disk = agent_disk
        self.volume_mib = volume_mib
        self._boot_deadline = boot_deadline
        self._init_deadline = init_deadline

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
            tap = await self._taps.acquire()
            record, spec = await self._prepare(tap, request, workspace, layers, undo)
            vm = await self._boots.boot(spec, tap)
            undo.push_async_callback(self._hypervisor.stop, vm)
            self._machines.save(record.model_copy(update={"process": vm}))
            reach("template:launched")
            guest = GuestClient(tap.address)
            undo.push_async_callback(guest.close)
            identity = self._machines.identity(record, default_user=default_user, default_workdir=default_workdir)
            version = await while_alive(self._hypervisor, vm, self._come_up(guest, identity))
            yield BuildMachine(vm, guest, version)

    async def _come_up(self, guest: GuestClient, identity: Identity) -> str:
        await guest.wait_healthy(deadline=self._boot_deadline)
        return await guest.init(identity, deadline=self._init_deadline)

    async def _prepare(
        self, tap: Tap, request: BuildRequest, workspace: Path, layers: tuple[Path, ...], undo: AsyncExitStack
    ) -> tuple[VmRecord, VmSpec]:
        vm_id = new_vm_id()
        record = VmRecord(
            vm_id=vm_id,
            template_id=TemplateId(request.template_id),
            build_id=BuildId(request.build_id),
            envd_version="",
            **behind(tap),
            boot_id=self._machines.boot_id,
            stage=Stage.PREPARING,
        )
        await self._machines.create_record(record, tap)
        # From here on one call frees tap, process, runtime directory and record, now or after a restart.
        undo.push_async_callback(self._machines.destroy_newest, vm_id)
        # Steps and start commands may download; the fixed denials of CubeVS hold for builds as for sandboxes.
        await self._switch.admit(tap, SandboxId(vm_id), EgressPolicy())
        uid = self._machines.uid_of(tap)
        spec = VmSpec(
            vm_id=vm_id,
            vcpus=request.vcpus,
            memory_mib=request.memory_mib,
            memory_file=workspace / MEMORY,
            disks=guest_disks(self.agent_disk, workspace / UPPER, layers),
            nic=None,
            runtime_dir=self._machines.make_runtime_dir(vm_id),
            confinement=Confinement(uid=uid, gid=uid),
            slots=volume_slots(self.volume_mib),
        )
        return record, spec
