"""The seam to what holds a VMM process on the host: its resource limits, and its independence from Cubelet's life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.domain.ids import VmId
from appliance.hypervisor.base import VmSpec

# What a VMM needs besides the guest's RAM: its own code and heap, translated code under TCG, disk and network buffers.
_OVERHEAD_MIB = 448
# Processors, and QEMU's worker threads for disk I/O (64 for each of its two event loops).
_EXTRA_TASKS = 144


@dataclass(frozen=True, slots=True)
class Limits:
    memory_mib: int
    cpu_percent: int
    """100 is one processor."""
    tasks: int

    @classmethod
    def of(cls, spec: VmSpec) -> Limits:
        """Return what a VMM of this machine may use at most."""
        return cls(
            memory_mib=spec.memory_mib + _OVERHEAD_MIB,
            cpu_percent=spec.vcpus * 100,
            tasks=spec.vcpus + _EXTRA_TASKS,
        )


class Scopes(Protocol):
    async def adopt(self, vm_id: VmId, pid: int, limits: Limits) -> None:
        """Move the running process `pid`, with its threads, into a scope of its own. Raises `VmmFailure`.

        The scope goes away with its last process: there is nothing to release.
        """
        ...

    async def close(self) -> None:
        """Let go of what is needed to make scopes; those made stay."""
        ...
