"""After a restart: what the records say should exist, against what does.

`reconcile` is the one pure function that decides; recovery acts on it, and the leak ledger prints it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
from pydantic import ValidationError

from appliance.clients.guest import GuestClient
from appliance.common.clock import Clock
from appliance.contracts.node import EndedSandbox, EndReason
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.runtime import RecordStore, Stage, Unreadable, VmRecord
from appliance.cubelet.services.machines import Machine, Machines
from appliance.cubelet.services.pausing import Pausing
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.registry import id_of
from appliance.cubelet.services.running import Running
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import TemplateStore
from appliance.cubevs.base import Switch, Tap
from appliance.domain.errors import CubeError
from appliance.domain.ids import BuildId, SandboxId, VmId
from appliance.hypervisor.base import Hypervisor, VmState

log = structlog.get_logger()

_RESUME_DEADLINE = timedelta(seconds=10)
_LOST = "what was saved of the paused sandbox is gone from the node's disk"


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there on this node."""

    boot_id: str
    alive: AbstractSet[VmId]
    """VMs whose recorded process is the one that runs."""
    vmm_pids: Mapping[VmId, tuple[int, ...]]
    """VMM processes of VMs that have a record or a directory."""
    taps: Sequence[Tap]
    runtime_dirs: AbstractSet[VmId]
    builds: AbstractSet[BuildId]
    """Templates that are ready."""
    saved: AbstractSet[VmId] = frozenset()
    """VMs of which all is kept that a pause keeps."""


@dataclass(frozen=True, slots=True)
class Plan:
    adopt: tuple[VmRecord, ...]
    """Running sandboxes to go on with."""
    paused: tuple[VmRecord, ...]
    """Sandboxes to hold as paused, freeing what is left of their VMs."""
    adopt_waiting: tuple[VmRecord, ...]
    """Pool members to go on with."""
    end: tuple[tuple[VmRecord, EndReason, str], ...]
    """Sandboxes to report as ended, and to free."""
    destroy: tuple[VmRecord, ...]
    """VMs that belong to nobody."""
    stray_pids: tuple[int, ...]
    """VMM processes that no record owns."""
    stray_dirs: tuple[VmId, ...]
    free_taps: tuple[Tap, ...]

    @property
    def leaks(self) -> int:
        """How many things are there that should not be; 0 on a node at rest."""
        return len(self.destroy) + len(self.stray_pids) + len(self.stray_dirs)


def reconcile(records: Sequence[VmRecord], observed: Observed, unreadable: Sequence[Unreadable] = ()) -> Plan:
    """Return what to do with each record and each thing that exists without one; nothing with what is unreadable."""
    adopt: list[VmRecord] = []
    paused: list[VmRecord] = []
    waiting: list[VmRecord] = []
    end: list[tuple[VmRecord, EndReason, str]] = []
    destroy: list[VmRecord] = []
    replaced = _replaced(records)
    for record in records:
        if record.vm_id in replaced:
            destroy.append(record)
            continue
        alive = record.vm_id in observed.alive and record.boot_id == observed.boot_id
        match record.stage:
            case Stage.PAUSING | Stage.PAUSED | Stage.RESUMING if record.vm_id in observed.saved:
                # What is saved is whole, whatever became of the VM: a resume only copies it.
                paused.append(record)
            case Stage.PAUSED | Stage.RESUMING:
                end.append((record, EndReason.VMM_DIED, _LOST))
            case Stage.RUNNING | Stage.PAUSING if alive:
                # One that was not saved yet goes on: whoever wanted the pause got no answer.
                adopt.append(record)
            case Stage.RUNNING | Stage.PAUSING if record.boot_id != observed.boot_id:
                end.append((record, EndReason.NODE_REBOOTED, "the node was rebooted"))
            case Stage.RUNNING | Stage.PAUSING:
                end.append((record, EndReason.VMM_DIED, "the VMM process ended while the node agent was away"))
            case Stage.WAITING if alive and record.build_id in observed.builds:
                waiting.append(record)
            case Stage.ENDING:
                end.append((record, record.end_reason or EndReason.KILLED, record.end_detail))
            case Stage.CREATING:
                end.append((record, EndReason.FAILED_START, "the node agent stopped during the create"))
            case _:
                destroy.append(record)
    left_alone = {one.vm_id for one in unreadable}
    owned_pids = {record.process.pid for record in (*adopt, *waiting) if record.process is not None}
    kept_vms = {record.vm_id for record in records} | left_alone
    # Names of taps of an earlier boot may be others' now.
    kept_taps = {record.tap_name for record in records if record.boot_id == observed.boot_id}
    kept_taps |= {one.tap_name for one in unreadable}
    return Plan(
        adopt=tuple(adopt),
        paused=tuple(paused),
        adopt_waiting=tuple(waiting),
        end=tuple(end),
        destroy=tuple(destroy),
        stray_pids=tuple(
            sorted(
                pid
                for vm_id, pids in observed.vmm_pids.items()
                if vm_id not in left_alone
                for pid in pids
                if pid not in owned_pids
            )
        ),
        stray_dirs=tuple(sorted(observed.runtime_dirs - kept_vms)),
        free_taps=tuple(tap for tap in observed.taps if tap.name not in kept_taps),
    )


def _replaced(records: Sequence[VmRecord]) -> frozenset[VmId]:
    """Return the machines of sandboxes that have a newer one: a rollback was cut short before it freed them."""
    newest: dict[SandboxId, VmRecord] = {}
    for record in sorted(records, key=lambda one: one.generation):
        if record.sandbox is not None:
            newest[record.sandbox.sandbox_id] = record
    kept = {record.vm_id for record in newest.values()}
    return frozenset(record.vm_id for record in records if record.sandbox is not None and record.vm_id not in kept)


def vmm_pids(known: AbstractSet[VmId], proc: Path = Path("/proc")) -> dict[VmId, tuple[int, ...]]:
    """Return the processes that carry the name of one of the `known` VMs in their command line, by VM.

    Every VMM is given its VM's id as the guest's name, and a VM has a record and a directory before it has a process:
    so this finds them all, and never one of another node agent on the same machine.
    """
    wanted = {f"guest={vm_id}".encode(): vm_id for vm_id in known}
    found: dict[VmId, tuple[int, ...]] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        for vm_id in {wanted[argument] for argument in arguments if argument in wanted}:
            found[vm_id] = (*found.get(vm_id, ()), int(entry.name))
    return found


class Recovery:
    """Brings a restarted Cubelet and its node to agree, before the first request is taken."""

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        switch: Switch,
        machines: Machines,
        records: RecordStore,
        templates: TemplateStore,
        taps: TapPool,
        pool: Pool,
        running: Running,
        pausing: Pausing,
        ended: EndedStore,
        clock: Clock,
        run_dir: Path,
        boot_id: str,
    ) -> None:
        self._hypervisor = hypervisor
        self._switch = switch
        self._machines = machines
        self._records = records
        self._templates = templates
        self._taps = taps
        self._pool = pool
        self._running = running
        self._pausing = pausing
        self._ended = ended
        self._clock = clock
        self._run_dir = run_dir
        self._boot_id = boot_id

    async def plan(self) -> Plan:
        """Compare records and node; changes nothing."""
        found = self._records.load()
        return reconcile(found.records, await self._observe(found.records), found.unreadable)

    async def run(self) -> None:
        """Adopt what lives, end what died, and free the rest."""
        found = self._records.load()
        plan = reconcile(found.records, await self._observe(found.records), found.unreadable)
        for record in plan.adopt:
            await self._adopt(record)
        for record in plan.adopt_waiting:
            self._pool.adopt(_machine(record))
        for pid in plan.stray_pids:
            _kill(pid)
        self._taps.adopt(list(plan.free_taps))
        for tap in plan.free_taps:
            await self._switch.revoke(tap)
        for record in plan.paused:
            await self._hold_paused(record)
        for record, reason, detail in plan.end:
            await self._end(record, reason, detail)
        for record in plan.destroy:
            await self._machines.destroy(record)
        for vm_id in found.debris:
            self._records.delete(vm_id)
        for vm_id in plan.stray_dirs:
            self._machines.remove_runtime_dir(vm_id)
        log.info(
            "recovered",
            adopted=len(plan.adopt),
            paused=len(plan.paused),
            waiting=len(plan.adopt_waiting),
            ended=len(plan.end),
            destroyed=len(plan.destroy),
            stray=len(plan.stray_pids) + len(plan.stray_dirs) + len(found.debris),
        )

    async def _hold_paused(self, record: VmRecord) -> None:
        try:
            await self._pausing.finish(id_of(record), record)
        except (CubeError, OSError, ValidationError) as error:
            # One sandbox must not keep the node from starting. It is tried again when it is resumed, and can be killed.
            log.exception("paused_sandbox_not_freed", vm_id=record.vm_id, exc_info=error)
            self._pausing.hold(id_of(record), record)

    async def _adopt(self, record: VmRecord) -> None:
        record = self._machines.save(record.model_copy(update={"stage": Stage.RUNNING}))
        self._records.forget_saved(record.vm_id)
        self._records.sweep(record)
        machine = _machine(record)
        # A pause or a snapshot stopped its processors, and was cut short.
        with suppress(CubeError):
            await self._hypervisor.resume(machine.process, deadline=_RESUME_DEADLINE)
        self._running.begin(machine)

    async def _end(self, record: VmRecord, reason: EndReason, detail: str) -> None:
        sandbox = record.sandbox
        if sandbox is None:
            await self._machines.destroy(record)
            return
        ended = EndedSandbox(sandbox_id=sandbox.sandbox_id, reason=reason, detail=detail, ended_at=self._clock.now())
        await self._machines.destroy(record, before_forgetting=lambda: self._ended.note(ended))

    async def _observe(self, records: Sequence[VmRecord]) -> Observed:
        alive = set()
        for record in records:
            process = record.process
            if process is not None and await self._hypervisor.describe(process) is not VmState.EXITED:
                alive.add(record.vm_id)
        runtime_dirs = {VmId(path.name) for path in self._run_dir.iterdir()} if self._run_dir.is_dir() else set()
        known = runtime_dirs | {record.vm_id for record in records}
        return Observed(
            boot_id=self._boot_id,
            alive=alive,
            vmm_pids=vmm_pids(known),
            taps=await self._switch.taps(),
            runtime_dirs=runtime_dirs,
            builds={template.build_id for template in self._templates.all()},
            saved={record.vm_id for record in records if self._records.has_saved(record.vm_id)},
        )


def _machine(record: VmRecord) -> Machine:
    if record.process is None or record.tap is None:
        raise ValueError(f"VM {record.vm_id} is alive without a process or a tap")
    return Machine(record=record, tap=record.tap, process=record.process, guest=GuestClient(record.tap.address))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
