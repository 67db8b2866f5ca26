"""VMs of this node with all that belongs to them: tap, user, disk, directories, record, process, agent connection."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import structlog

from appliance.clients.guest import GuestClient, Identity
from appliance.common.clock import Clock
from appliance.common.trees import remove_tree
from appliance.cubelet.runtime import AttachedVolume, RecordStore, SandboxRecord, Stage, VmRecord
from appliance.cubelet.services.booting import Boots
from appliance.cubelet.services.guest_disks import guest_disks, volume_slots
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_meta import TemplateMeta
from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.cubelet.services.volume_store import VolumeStore
from appliance.cubevs.base import GUEST_MAC, EgressPolicy, Switch, Tap
from appliance.domain.errors import GuestFailure
from appliance.domain.ids import SandboxId, VmId
from appliance.hypervisor.base import (
    Confinement,
    Hypervisor,
    Nic,
    Snapshot,
    VmProcess,
    VmSpec,
    VmState,
)
from appliance.hypervisor.deadlines import together
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
    tap: Tap
    process: VmProcess
    guest: GuestClient


class Machines:
    """Makes and destroys VMs. `new` either returns one or leaves nothing; `destroy` may be repeated."""

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        switch: Switch,
        disks: DiskStore,
        taps: TapPool,
        records: RecordStore,
        templates: TemplateStore,
        volumes: VolumeStore,
        boots: Boots,
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
        self._templates = templates
        self._volumes = volumes
        self._boots = boots
        self._clock = clock
        self._run_dir = run_dir
        self._node_address = node_address
        self._uid_base = uid_base
        self._boot_id = boot_id
        self._restore_deadline = restore_deadline
        self._init_deadline = init_deadline

    async def new(self, template: ReadyTemplate, volumes: tuple[AttachedVolume, ...] = ()) -> Machine:
        """Make a VM of a template, with volumes that no other has, and leave it paused, with stage PREPARING."""
        async with AsyncExitStack() as undo:
            tap = await self._taps.acquire()
            undo.push_async_callback(self._taps.release, tap)
            record = VmRecord(
                vm_id=new_vm_id(),
                template_id=template.template_id,
                build_id=template.build_id,
                envd_version=template.meta.envd_version,
                meta=template.meta,
                boot_id=self._boot_id,
                stage=Stage.PREPARING,
                volumes=volumes,
                **behind(tap),
            )
            undo.callback(self._records.delete, record.vm_id)
            self._records.create(record)
            await self._disks.clone_upper(template.upper, self._records.upper(record.vm_id))
            undo.callback(self.remove_runtime_dir, record.vm_id)
            if template.snapshot is None:
                record, base = await self.boot(record, tap)
            else:
                record, base = self._own_memory(record, template, template.snapshot)
            machine = await self.restore(record, tap, base)
            undo.pop_all()
        if template.snapshot is None:
            # The state of the devices has been read.
            self._records.sweep(machine.record)
        return machine

    async def restore(self, record: VmRecord, tap: Tap, snapshot: Snapshot) -> Machine:
        """Clone `snapshot` onto the VM's own disk, behind `tap`, and leave it paused. On failure no process is left."""
        tap_fd = self._switch.open_tap(tap)
        try:
            spec = replace(self._spec(record, tap, snapshot.memory_file), nic=Nic(tap_fd=tap_fd, mac=GUEST_MAC))
            process = await self._hypervisor.clone(spec, snapshot, deadline=self._restore_deadline)
        finally:
            os.close(tap_fd)
        try:
            record = self.save(record.model_copy(update={"process": process, "machine": snapshot.machine}))
        except BaseException:
            await asyncio.shield(self._hypervisor.stop(process))
            raise
        return Machine(record=record, tap=tap, process=process, guest=GuestClient(tap.address))

    async def flush(
        self, record: VmRecord, tap: Tap, snapshot: Snapshot, *, deadline: timedelta
    ) -> dict[str, str] | None:
        """Let a VM run as it was saved for as long as it takes its guest to write its files to its disk, and end it.

        Returns the guest's variables; None where it does not answer: then the disk is as the guest left it.
        """
        machine = await self.restore(record, tap, snapshot)
        try:
            # Not admitted, the guest reaches nobody meanwhile but with its answer.
            await self._hypervisor.resume(machine.process, deadline=self._restore_deadline)
            return await machine.guest.flush(deadline=deadline)
        except GuestFailure as error:
            log.warning("guest_not_flushed", vm_id=record.vm_id, error=error.message)
            return None
        finally:
            await machine.guest.close()
            await self._hypervisor.stop(machine.process)
            self.remove_runtime_dir(record.vm_id)

    async def boot(self, record: VmRecord, tap: Tap) -> tuple[VmRecord, Snapshot]:
        """Boot the VM's disk, and return the record and the base that it is to be restored from."""
        name = f"boot-{record.generation}"
        memory = self._records.memory(record.vm_id, name)
        memory.parent.mkdir(mode=0o700, exist_ok=True)
        memory.unlink(missing_ok=True)
        # The devices' state is beside it only until the clone that follows has read it.
        snapshot = await self._boots.base(self._spec(record, tap, memory), tap, memory.parent)
        self.remove_runtime_dir(record.vm_id)
        return self.save(record.model_copy(update={"own_memory": name})), snapshot

    def base_of(self, record: VmRecord) -> Snapshot:
        """Return the base that changed pages of the VM are changes of."""
        meta = meta_of(record)
        own = record.own_memory
        return Snapshot(
            memory_file=self._records.memory(record.vm_id, own) if own is not None else self._templates.memory_of(meta),
            device_state=Path("/nonexistent"),
            machine=record.machine,
            vcpus=meta.vcpus,
            memory_mib=meta.memory_mib,
        )

    def _own_memory(self, record: VmRecord, template: ReadyTemplate, snapshot: Snapshot) -> tuple[VmRecord, Snapshot]:
        """Let the VM keep the RAM of a snapshot that has its own, since the snapshot may be deleted before the VM."""
        if template.pooled or template.meta.base_memory:
            return record, snapshot
        memory = self._records.memory(record.vm_id, "snapshot")
        memory.parent.mkdir(mode=0o700)
        os.link(snapshot.memory_file, memory)
        return record.model_copy(update={"own_memory": memory.name}), replace(snapshot, memory_file=memory)

    def _spec(self, record: VmRecord, tap: Tap, memory_file: Path) -> VmSpec:
        meta = meta_of(record)
        uid = self.uid_of(tap)
        return VmSpec(
            vm_id=record.vm_id,
            vcpus=meta.vcpus,
            memory_mib=meta.memory_mib,
            memory_file=memory_file,
            disks=guest_disks(
                Path(meta.agent_disk), self._records.upper(record.vm_id), self._templates.layers_of(meta)
            ),
            nic=None,
            runtime_dir=self.make_runtime_dir(record.vm_id),
            confinement=Confinement(uid=uid, gid=uid),
            slots=volume_slots(meta.volume_mib, [self._volumes.get(one.volume_id).image for one in record.volumes]),
        )

    async def hand_over(self, machine: Machine, identity: Identity, egress: EgressPolicy) -> None:
        """Let a paused VM run as what `identity` says. Returns once its guest has acknowledged it."""
        if egress.header_rules:
            trusted = self._switch.trusted_certificate(SandboxId(identity.sandbox_id))
            identity = replace(identity, ca_bundle=trusted)
        # All at once: what the guest sends before it is admitted is dropped, but for its answers to this node, and
        # what is sent to it before it runs waits in its tap.
        await together(
            self._switch.admit(machine.tap, SandboxId(identity.sandbox_id), egress),
            self._hypervisor.resume(machine.process, deadline=self._restore_deadline),
            machine.guest.init(identity, deadline=self._init_deadline),
        )

    async def have_trusted(self, machine: Machine, sandbox_id: SandboxId) -> None:
        """Have the guest of a running sandbox trust what header rules need. Raises GuestFailure."""
        # The connection of its beginning has been closed.
        guest = GuestClient(machine.tap.address)
        try:
            await guest.trust(self._switch.trusted_certificate(sandbox_id), deadline=self._init_deadline)
        except GuestFailure as error:
            raise GuestFailure(
                f"the network rules of sandbox '{sandbox_id}' stay as they were: its guest could not be told which "
                f"certificates to trust where headers are added: {error.message}"
            ) from error
        finally:
            await guest.close()

    async def start_services(self, machine: Machine, access_token: str | None) -> None:
        """Start what the template starts, in a guest that has been booted."""
        start = meta_of(machine.record).start
        if start is not None:
            await machine.guest.start(
                start.argv,
                deadline=self._init_deadline,
                access_token=access_token,
                user=start.user,
                envs=start.env,
                cwd=start.working_dir,
            )

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
                "volume_paths": tuple(volume.path for volume in record.volumes),
                **of_sandbox,
            }
        )

    async def alive(self, machine: Machine) -> bool:
        return await self._hypervisor.describe(machine.process) is not VmState.EXITED

    @property
    def boot_id(self) -> str:
        return self._boot_id

    async def create_record(self, record: VmRecord, tap: Tap) -> None:
        """Write the first record of a VM behind `tap`, which is free again where that fails."""
        try:
            self._records.create(record)
        except BaseException:
            await asyncio.shield(self._taps.release(tap))
            raise

    def save(self, record: VmRecord) -> VmRecord:
        self._records.save(record)
        return record

    async def discard(self, machine: Machine) -> None:
        """Destroy a VM that nobody needs, with our connection to it."""
        await machine.guest.close()
        await self.destroy(machine.record)

    async def destroy_newest(self, vm_id: VmId) -> None:
        """Destroy a VM by what its record on disk says now. Absent VMs are success."""
        record = self._records.read(vm_id)
        if record is not None:
            await self.destroy(record)

    async def destroy(self, record: VmRecord, *, before_forgetting: Callable[[], None] | None = None) -> None:
        """End the VM and free everything it holds, its record last. What is already gone is success."""
        await self._free(record)
        if before_forgetting is not None:
            before_forgetting()
        await asyncio.to_thread(self._records.delete, record.vm_id)

    async def settle(self, record: VmRecord) -> VmRecord:
        """Leave nothing of a VM but what is saved of it, and record it as paused, durably. Safe to repeat."""
        await self._free(record)
        await asyncio.to_thread(self._records.upper(record.vm_id).unlink, missing_ok=True)
        saved = self._records.read_saved(record.vm_id)
        record = record.model_copy(
            update={
                "stage": Stage.PAUSED,
                "generation": record.generation + (record.stage is Stage.PAUSING),
                "paused_at": saved.paused_at,
                "filesystem_only": saved.filesystem_only,
                "own_memory": saved.own_memory,
                "machine": saved.machine,
                "process": None,
                "tap_name": None,
                "tap_ifindex": None,
                "address": None,
            }
        )
        await asyncio.to_thread(self._records.save_durably, record)
        await asyncio.to_thread(self._records.sweep, record)
        return record

    async def _free(self, record: VmRecord) -> None:
        """Free what a VM holds besides its files."""
        stopping = None if record.process is None else self._hypervisor.stop(record.process)
        # Taps of an earlier boot are gone, and their names may be others' now.
        if record.tap is not None and record.boot_id == self._boot_id:
            await self._taps.release(record.tap, once=stopping)
        elif stopping is not None:
            await stopping
        self.remove_runtime_dir(record.vm_id)

    def uid_of(self, tap: Tap) -> int:
        """Return the user a VMM on this tap runs as: one a tap, so that no two VMMs may touch each other."""
        return self._uid_base + int(tap.address) - int(self._node_address)

    def make_runtime_dir(self, vm_id: VmId) -> Path:
        path = self._run_dir / vm_id
        path.mkdir(mode=0o700, parents=True)
        return path

    def remove_runtime_dir(self, vm_id: VmId) -> None:
        remove_tree(self._run_dir / vm_id)


def meta_of(record: VmRecord) -> TemplateMeta:
    """Return what a sandbox's VM was made from."""
    if record.meta is None:
        raise ValueError(f"VM {record.vm_id} was not made from a build")
    return record.meta


def behind(tap: Tap) -> dict[str, Any]:
    """Return the fields of a record that name its tap."""
    return {"tap_name": tap.name, "tap_ifindex": tap.ifindex, "address": tap.address}


def under(egress: EgressPolicy, former: SandboxRecord | None = None) -> dict[str, Any]:
    """Return the fields of a sandbox's record that say under which rules it is. Their values are on no disk."""
    return {
        "network_revision": egress.revision,
        "trusts_authority": bool(egress.header_rules) or (former is not None and former.trusts_authority),
    }


def new_vm_id() -> VmId:
    return VmId("v" + secrets.token_hex(8))
