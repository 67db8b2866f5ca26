"""Where a sandbox goes: nodes that cannot take it are filtered out, the rest are scored.

The answer is a preference, made from values that may be stale by the time it is used. The reservation that follows
checks capacity again, in the transaction that takes it; if it fails, the next node is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from appliance.domain.errors import NoCapacity
from appliance.domain.ids import NodeId


@dataclass(frozen=True, slots=True)
class Resources:
    vcpus: int
    memory_mib: int

    def times(self, count: int) -> Resources:
        return Resources(self.vcpus * count, self.memory_mib * count)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ready node that holds the template."""

    node_id: NodeId
    capacity: Resources
    reserved: Resources
    disk_free_mib: int
    pooled: int
    """Restored VMs of this template that wait to be claimed, as of the last heartbeat."""

    def fits(self, request: Resources, *, disk_mib: int) -> bool:
        return (
            self.reserved.vcpus + request.vcpus <= self.capacity.vcpus
            and self.reserved.memory_mib + request.memory_mib <= self.capacity.memory_mib
            and disk_mib <= self.disk_free_mib
        )

    def load_after(self, request: Resources) -> float:
        """Return the fuller of the two dimensions, 0 to 1, once `request` is placed here."""
        return max(
            (self.reserved.vcpus + request.vcpus) / self.capacity.vcpus,
            (self.reserved.memory_mib + request.memory_mib) / self.capacity.memory_mib,
        )


def rank(request: Resources, *, disk_mib: int, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the candidates that fit, best first, or raise NoCapacity.

    A node with a pooled VM answers several times faster, so it beats an emptier one; among equals the emptiest wins,
    and the id breaks ties so that the same state always gives the same answer.
    """
    if not candidates:
        raise NoCapacity("no ready node holds this template; see `cubemastercli node list`, or build it again")
    fitting = [one for one in candidates if one.fits(request, disk_mib=disk_mib)]
    if not fitting:
        raise NoCapacity(
            f"none of {len(candidates)} nodes has {request.vcpus} vCPU, {request.memory_mib} MiB of memory"
            f" and {disk_mib} MiB of disk free; kill sandboxes or add a node"
        )
    return sorted(fitting, key=lambda one: (one.pooled == 0, one.load_after(request), one.node_id))


def only(node_id: NodeId, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the candidate that has the sandbox's volumes, or raise NoCapacity: nowhere else can it have them."""
    found = [one for one in candidates if one.node_id == node_id]
    if not found:
        raise NoCapacity(
            f"node '{node_id}', which has the volumes, takes no sandboxes now or does not hold this template; "
            "see `cubemastercli node list`"
        )
    return found


def roomiest(disk_mib: int, free_mib: Mapping[NodeId, int]) -> NodeId:
    """Return the node with the most free disk, out of those that have `disk_mib`, or raise NoCapacity."""
    fitting = {node: free for node, free in free_mib.items() if free >= disk_mib}
    if not fitting:
        raise NoCapacity(f"none of {len(free_mib)} ready nodes has {disk_mib} MiB of disk free; add a node, or a disk")
    return min(fitting, key=lambda node: (-fitting[node], node))
