"""Which sandboxes are on this node, and the lock that orders what happens to each of them."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.cubelet.concurrency import KeyedLocks
from appliance.cubelet.runtime import SandboxRecord, Stage, VmRecord
from appliance.cubelet.services.machines import Machine
from appliance.domain.errors import Conflict, SandboxNotFound, SandboxTransitioning
from appliance.domain.ids import BuildId, SandboxId


class Registry:
    """Every sandbox is in one of the two: `live` ones have a VM, `paused` ones a record and files alone."""

    def __init__(self) -> None:
        self.live: dict[SandboxId, Machine] = {}
        self.paused: dict[SandboxId, VmRecord] = {}
        self.locks = KeyedLocks[SandboxId]()

    def list(self) -> Sequence[VmRecord]:
        return [*(machine.record for machine in self.live.values()), *self.paused.values()]

    def find(self, sandbox_id: SandboxId) -> VmRecord | None:
        machine = self.live.get(sandbox_id)
        return machine.record if machine is not None else self.paused.get(sandbox_id)

    def get(self, sandbox_id: SandboxId) -> VmRecord:
        record = self.find(sandbox_id)
        if record is None:
            raise SandboxNotFound(sandbox_id)
        return record

    def running(self, sandbox_id: SandboxId) -> Machine:
        """Return a sandbox that runs. Raises SandboxNotFound, or Conflict where it is paused or ending."""
        machine = self.live.get(sandbox_id)
        if machine is None:
            self.get(sandbox_id)
            raise Conflict(f'Sandbox "{sandbox_id}" is paused; resume it first')
        match machine.record.stage:
            case Stage.ENDING:
                raise SandboxTransitioning(sandbox_id, "killed")
            case Stage.PAUSING:
                raise SandboxTransitioning(sandbox_id, "paused")
        return machine

    def needing(self, build_id: BuildId) -> int:
        """Return how many sandboxes need RAM or layers of a template, now or when they are resumed."""
        return sum(1 for one in self.list() if one.meta is not None and one.meta.root_build_id == build_id)


def sandbox_of(record: VmRecord) -> SandboxRecord:
    if record.sandbox is None:
        raise ValueError(f"VM {record.vm_id} has no sandbox")
    return record.sandbox


def id_of(record: VmRecord) -> SandboxId:
    return sandbox_of(record).sandbox_id
