"""Nodes: when one is lost, and what its heartbeat says about the sandboxes that we believe it has."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, TypeVar

from appliance.domain.ids import NodeId, SandboxId
from appliance.domain.placement import Resources
from appliance.domain.sandbox import EndReason, Observation, Sandbox, SandboxState


class NodeState(StrEnum):
    READY = "ready"
    NOT_READY = "not_ready"
    """It says so itself, and why."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Node:
    node_id: NodeId
    state: NodeState
    detail: str
    endpoint: str
    version: str
    boot_id: str
    vmm: str
    accelerator: str
    capacity: Resources
    disk_free_mib: int
    last_heartbeat_at: datetime


class HeartbeatWatch:
    """Finds nodes that fell silent, by a clock that never jumps.

    It watches each node's heartbeat counter rather than comparing times of two machines: a stepped clock, a restart of
    CubeMaster or an outage of the database must not look like the loss of every node at once. So silence counts from
    the moment this watch first saw the counter's present value.
    """

    def __init__(self, lost_after: timedelta) -> None:
        self._lost_after_s = lost_after.total_seconds()
        self._seen: dict[NodeId, tuple[int, float]] = {}

    def silent(self, counters: Mapping[NodeId, int], *, at: float) -> list[NodeId]:
        """Return the nodes whose counter stood still for too long. `at` is monotonic seconds."""
        self._seen = {
            node: seen if (seen := self._seen.get(node)) and seen[0] == count else (count, at)
            for node, count in counters.items()
        }
        return [node for node, (_, since) in self._seen.items() if at - since >= self._lost_after_s]

    def restart(self) -> None:
        """Forget all silence so far: heartbeats could not be recorded."""
        self._seen.clear()


_Id = TypeVar("_Id", bound=Hashable)


class AbsenceWatch(Generic[_Id]):
    """Finds things of a node that it stopped listing, and did not explain within a grace.

    A sandbox may end between a node's look at its list and ours at the record, and the reason follows in a message of
    its own: only an absence that lasts means that the node knows nothing of it.
    """

    def __init__(self, grace: timedelta) -> None:
        self._grace_s = grace.total_seconds()
        self._since: dict[NodeId, dict[_Id, float]] = {}

    def lasting(self, node: NodeId, absent: Iterable[_Id], *, at: float) -> frozenset[_Id]:
        """Return those of `absent` that have been absent for the whole grace. `at` is monotonic seconds."""
        before = self._since.get(node, {})
        self._since[node] = {one: before.get(one, at) for one in absent}
        return frozenset(one for one, since in self._since[node].items() if at - since >= self._grace_s)


@dataclass(frozen=True, slots=True)
class Ending:
    sandbox_id: SandboxId
    reason: EndReason
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What must happen so that our records and the node agree."""

    end: tuple[Ending, ...]
    """Records to end."""
    absent: tuple[SandboxId, ...]
    """Running by our record, not on the node: end them if it lasts."""
    delete: tuple[SandboxId, ...]
    """Sandboxes that the node must remove."""


_ON_DISK = frozenset({SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING})


def compare(records: Iterable[Sandbox], reported: Collection[SandboxId], *, rebooted: bool) -> Verdict:
    """Compare the live records of a node with what its heartbeat lists.

    A record that is `creating` belongs to the call that creates it. A `paused` one needs no process on the node, and
    of one that is pausing or resuming the node must be asked. `rebooted` means that nothing the node ran before can
    still run.
    """
    live = {record.sandbox_id: record for record in records}
    end, absent = [], []
    for sandbox_id, record in live.items():
        if sandbox_id in reported or record.state in _ON_DISK:
            continue
        if record.state is SandboxState.KILLING:
            end.append(Ending(sandbox_id, EndReason.KILLED, ""))
        elif rebooted:
            end.append(Ending(sandbox_id, EndReason.NODE_REBOOTED, "its node was restarted"))
        elif record.state is SandboxState.RUNNING:
            absent.append(sandbox_id)
    delete = sorted(one for one in reported if one not in live or live[one].state is SandboxState.KILLING)
    return Verdict(end=tuple(end), absent=tuple(absent), delete=tuple(delete))


@dataclass(frozen=True, slots=True)
class Sleepers:
    """Where record and node differ in whether a sandbox is paused, or in which machine it runs."""

    moved_on: tuple[Sandbox, ...]
    """The node paused them when their time was up, or rolled them back though nobody waited for it any more."""
    strayed: tuple[Sandbox, ...]
    """They run although they are recorded as paused: a resume that was given up took effect after all."""


def compare_sleep(records: Iterable[Sandbox], seen: Mapping[SandboxId, Observation]) -> Sleepers:
    """Compare what is recorded as running or paused with what a heartbeat says of it.

    The node's count of pauses, resumes and rollbacks tells a report that was overtaken by a call from one that is news.
    """
    moved_on, strayed = [], []
    for record in records:
        one = seen.get(record.sandbox_id)
        if one is None:
            continue
        if record.state is SandboxState.RUNNING and one.generation > record.generation:
            moved_on.append(record)
        elif record.state is SandboxState.PAUSED and not one.paused and one.generation >= record.generation:
            strayed.append(record)
    return Sleepers(moved_on=tuple(moved_on), strayed=tuple(strayed))
