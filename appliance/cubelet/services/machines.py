"""VMs of this node with all that belongs to them: tap, user, disk, directories, record, process, agent connection."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from appliance.clients.guest import GuestClient, Identity
from appliance.common.clock import Clock
from appliance.cubelet.runtime import RecordStore, Stage, VmRecord
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import ReadyTemplate
from appliance.cubevs.base import GUEST_MAC, Switch, Tap
from appliance.domain.errors import GuestFailure
from appliance.domain.ids import VmId
from appliance.hypervisor.base import Confinement, Disk, Hypervisor, Nic, VmProcess, VmSpec, VmState
from appliance.storage.base import DiskStore

log = structlog.get_logger()

# What every SDK's first command runs; done once before a VM waits in the pool, it is translated and its pages are in.
WARM_UP = ("/bin/bash", "-l", "-c", "true")
# Rounds after which another one makes no difference that can be measured.
_WARM_COMMANDS = 2
_WARM_IDENTITIES = 3


@dataclass(slots=True)
class Machine:
    """A VM that exists: its newest record and the connection to its agent."""

    record: VmRecord
    process: VmProcess
    guest: GuestClient


class Machines:
    """Makes and destroys VMs. `clone` either returns one or leaves nothing; `destroy` may be repeated."""

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        switch: Switch,
        disks: DiskStore,
        taps: TapPool,
        records: RecordStore,
        clock: Clock,
        run_dir: Path,
        node_address: IPv4Address,
        uid_base: int,
        boot_id: str,
        restore_deadline: timedelta,
        init_deadline: timedelta,
    ) -> None:
        self._hypervisor = hypervisor
        self._switch = switch
        self._disks = disks
        self._taps = taps
        self._records = records
        self._clock = clock
        self._run_dir = run_dir
        self._node_address = node_address
        self._uid_base = uid_base
        self._boot_id = boot_id
        self._restore_deadline = restore_deadline
        self._init_deadline = init_deadline

    async def clone(self, template: ReadyTemplate) -> Machine:
        """Restore a template as a new VM and leave it paused, with stage PREPARING."""
        async with AsyncExitStack() as undo:
            tap = await self._taps.acquire()
            undo.push_async_callback(self._taps.release, tap)
            record = VmRecord(
                vm_id=new_vm_id(),
                template_id=template.template_id,
                build_id=template.build_id,
                envd_version=template.meta.envd_version,
                uid=self.uid_of(tap),
                tap_name=tap.name,
                tap_ifindex=tap.ifindex,
                address=tap.address,
                boot_id=self._boot_id,
                stage=Stage.PREPARING,
            )
            undo.callback(self._records.delete, record.vm_id)
            self._records.create(record)
            upper = self._records.upper(record.vm_id)
            await self._disks.clone_upper(template.upper, upper)
            undo.callback(self.remove_runtime_dir, record.vm_id)
            process = await self._clone_vm(template, record, upper)
            undo.push_async_callback(self._hypervisor.stop, process)
            record = self.save(record.model_copy(update={"process": process}))
            undo.pop_all()
        return Machine(record=record, process=process, guest=GuestClient(record.address))

    async def _clone_vm(self, template: ReadyTemplate, record: VmRecord, upper: Path) -> VmProcess:
        tap_fd = self._switch.open_tap(record.tap)
        try:
            spec = VmSpec(
                vm_id=record.vm_id,
                vcpus=template.meta.vcpus,
                memory_mib=template.meta.memory_mib,
                memory_file=template.snapshot.memory_file,
                disks=guest_disks(template.agent_disk, upper, template.layers),
                nic=Nic(tap_fd=tap_fd, mac=GUEST_MAC),
                runtime_dir=self.make_runtime_dir(record.vm_id),
                confinement=Confinement(uid=record.uid, gid=record.uid),
            )
            return await self._hypervisor.clone(spec, template.snapshot, deadline=self._restore_deadline)
        finally:
            os.close(tap_fd)

    async def warm(self, machine: Machine, template: ReadyTemplate) -> None:
        """Do a few times what an owner will do first, and pause it again: the next time it costs a tenth."""
        await self._hypervisor.resume(machine.process, deadline=self._restore_deadline)
        # Nobody is told this one: until its owner's replaces it, the guest obeys nobody else.
        token = secrets.token_hex(32)
        for _ in range(_WARM_IDENTITIES):
            identity = self.identity(
                machine.record,
                access_token=token,
                env_vars=template.meta.env,
                default_user=template.meta.default_user,
                default_workdir=template.meta.default_workdir,
            )
            await machine.guest.init(identity, deadline=self._init_deadline)
        try:
            for _ in range(_WARM_COMMANDS):
                await machine.guest.run(WARM_UP, deadline=self._init_deadline, access_token=token)
        except GuestFailure as error:
            # An image may have no shell; its agent has been warmed all the same.
            log.debug("warm_up_without_shell", vm_id=machine.record.vm_id, error=error.message)
        await self._hypervisor.pause(machine.process, deadline=self._restore_deadline)

    def identity(self, record: VmRecord, **of_sandbox: object) -> Identity:
        """Return a fresh identity for the guest. Without an owner, the VM's id stands in for the sandbox's."""
        sandbox_id = str(of_sandbox.pop("sandbox_id", record.vm_id))
        return Identity(
            **{  # type: ignore[arg-type]  # keyword names are Identity's own
                "sandbox_id": sandbox_id,
                "template_id": record.template_id,
                "hostname": sandbox_id,
                "machine_id": secrets.token_hex(16),
                "entropy": os.urandom(64),
                "timestamp": self._clock.now(),
                "access_token": None,
                "env_vars": {},
                **of_sandbox,
            }
        )

    async def alive(self, machine: Machine) -> bool:
        return await self._hypervisor.describe(machine.process) is not VmState.EXITED

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def create_record(self, record: VmRecord) -> None:
        self._records.create(record)

    def save(self, record: VmRecord) -> VmRecord:
        self._records.save(record)
        return record

    async def destroy_newest(self, vm_id: VmId) -> None:
        """Destroy a VM by what its record on disk says now. Absent VMs are success."""
        record = self._records.read(vm_id)
        if record is not None:
            await self.destroy(record)

    async def destroy(self, record: VmRecord, *, before_forgetting: Callable[[], None] | None = None) -> None:
        """End the VM and free everything it holds, its record last. What is already gone is success."""
        if record.process is not None:
            await self._hypervisor.stop(record.process)
        await self._taps.release(record.tap)
        self.remove_runtime_dir(record.vm_id)
        if before_forgetting is not None:
            before_forgetting()
        await asyncio.to_thread(self._records.delete, record.vm_id)

    def uid_of(self, tap: Tap) -> int:
        """Return the user a VMM on this tap runs as: one a tap, so that no two VMMs may touch each other."""
        return self._uid_base + int(tap.address) - int(self._node_address)

    def make_runtime_dir(self, vm_id: VmId) -> Path:
        path = self._run_dir / vm_id
        path.mkdir(mode=0o700, parents=True)
        return path

    def remove_runtime_dir(self, vm_id: VmId) -> None:
        shutil.rmtree(self._run_dir / vm_id, ignore_errors=True)


def new_vm_id() -> VmId:
    return VmId("v" + secrets.token_hex(8))


def guest_disks(agent: Path, upper: Path, layers: tuple[Path, ...]) -> tuple[Disk, ...]:
    """Return the disks in the order the guest's init expects: agent, writable upper, layers from the lowest."""
    return (
        Disk(agent, read_only=True),
        Disk(upper, read_only=False),
        *(Disk(layer, read_only=True) for layer in layers),
    )
