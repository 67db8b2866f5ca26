"""Nodes, their heartbeats, and the reservations on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, exists, func, select, update
from sqlalchemy.dialects.mysql import insert as mysql_insert

from appliance.cubemaster.persistence.tables import nodes, replicas, sandboxes
from appliance.domain.ids import BuildId, NodeId
from appliance.domain.node import Node, NodeState
from appliance.domain.placement import Candidate, Resources
from appliance.domain.sandbox import LIVE, EndReason, Sandbox, SandboxState
from appliance.domain.template import ReplicaState


@dataclass(frozen=True, slots=True)
class NodeUsage:
    node: Node
    reserved: Resources
    sandboxes: int
    draining: bool
    """By the operator's word it gets nothing new."""
    status_changed_at: datetime
    host: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class NodeActivity:
    """What became of the sandboxes that were placed on a node in some time."""

    starting: int
    started: int
    failed: int


class NodeRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def boot_id(self, node_id: NodeId) -> str | None:
        """Return the boot id of the last heartbeat; None for a node that is new."""
        return self._connection.scalar(select(nodes.c.boot_id).where(nodes.c.node_id == node_id))

    def record_heartbeat(self, node: Node, *, host: Mapping[str, Any] | None = None) -> None:
        """Register the node, or take over what it now says of itself."""
        said = {
            # Before the state: MariaDB assigns in this order, and the comparison is with the state there was.
            "status_changed_at": node.last_heartbeat_at,
            "state": node.state,
            "detail": node.detail,
            "endpoint": node.endpoint,
            "version": node.version,
            "boot_id": node.boot_id,
            "vmm": node.vmm,
            "accelerator": node.accelerator,
            "vcpus": node.capacity.vcpus,
            "memory_mib": node.capacity.memory_mib,
            "disk_free_mib": node.disk_free_mib,
            "last_heartbeat_at": node.last_heartbeat_at,
            "host": None if host is None else dict(host),
        }
        statement = mysql_insert(nodes).values(
            node_id=node.node_id, vcpus_reserved=0, memory_reserved_mib=0, heartbeats=1, draining=False, **said
        )
        changed = case(
            (nodes.c.state != node.state, statement.inserted.status_changed_at), else_=nodes.c.status_changed_at
        )
        updates = {**said, "status_changed_at": changed, "heartbeats": nodes.c.heartbeats + 1}
        self._connection.execute(statement.on_duplicate_key_update(list(updates.items())))

    def set_draining(self, node_id: NodeId, *, draining: bool, now: datetime) -> None:
        """Let the node get nothing new, or again."""
        self._connection.execute(
            update(nodes)
            .where(nodes.c.node_id == node_id, nodes.c.draining != draining)
            .values(draining=draining, status_changed_at=now)
        )

    def activity(self, *, since: datetime) -> Mapping[NodeId, NodeActivity]:
        """Return what became of the sandboxes placed since then, by node."""
        failed = func.sum(func.coalesce(sandboxes.c.end_reason == EndReason.FAILED_START, 0))
        starting = func.sum(sandboxes.c.state == SandboxState.CREATING)
        rows = self._connection.execute(
            select(sandboxes.c.node_id, func.count(), failed, starting)
            # All states: the index by state and start is read from `since` on.
            .where(sandboxes.c.state.in_(list(SandboxState)), sandboxes.c.started_at >= since)
            .group_by(sandboxes.c.node_id)
        )
        return {
            NodeId(node): NodeActivity(starting=int(now), started=count - int(bad) - int(now), failed=int(bad))
            for node, count, bad, now in rows
        }

    def all(self) -> list[NodeUsage]:
        counted = (
            select(sandboxes.c.node_id, func.count().label("sandboxes"))
            .where(sandboxes.c.state.in_(LIVE))
            .group_by(sandboxes.c.node_id)
            .subquery()
        )
        rows = self._connection.execute(
            select(nodes, func.coalesce(counted.c.sandboxes, 0).label("sandboxes"))
            .outerjoin(counted, counted.c.node_id == nodes.c.node_id)
            .order_by(nodes.c.node_id)
        )
        return [
            NodeUsage(
                node=_node(row),
                reserved=Resources(row.vcpus_reserved, row.memory_reserved_mib),
                sandboxes=row.sandboxes,
                draining=row.draining,
                status_changed_at=row.status_changed_at,
                host=row.host,
            )
            for row in rows
        ]

    def find(self, node_id: NodeId) -> Node | None:
        row = self._connection.execute(select(nodes).where(nodes.c.node_id == node_id)).one_or_none()
        return _node(row) if row else None

    def ready(self) -> list[Node]:
        rows = self._connection.execute(select(nodes).where(nodes.c.state == NodeState.READY).order_by(nodes.c.node_id))
        return [_node(row) for row in rows]

    def disk_free_mib(self) -> Mapping[NodeId, int]:
        """Return the free disk of each ready node that may get something new."""
        rows = self._connection.execute(
            select(nodes.c.node_id, nodes.c.disk_free_mib).where(
                nodes.c.state == NodeState.READY, nodes.c.draining.is_(False)
            )
        )
        return {NodeId(node_id): free for node_id, free in rows}

    def heartbeat_counters(self) -> Mapping[NodeId, int]:
        """Return how many heartbeats each node that is not lost has sent."""
        rows = self._connection.execute(
            select(nodes.c.node_id, nodes.c.heartbeats).where(nodes.c.state != NodeState.LOST)
        )
        return {NodeId(node_id): count for node_id, count in rows}

    def mark_lost(self, node_id: NodeId, *, heartbeats: int, now: datetime) -> bool:
        """Return False if a heartbeat came after all."""
        result = self._connection.execute(
            update(nodes)
            .where(
                nodes.c.node_id == node_id,
                nodes.c.heartbeats == heartbeats,
                nodes.c.state != NodeState.LOST,
            )
            .values(
                status_changed_at=now,
                state=NodeState.LOST,
                detail="no heartbeat; see `journalctl -u cubelet` on the node",
            )
        )
        return result.rowcount == 1

    def candidates(self, build_id: BuildId) -> list[Candidate]:
        """Return the ready nodes that hold the build."""
        rows = self._connection.execute(_CANDIDATES, {"build": build_id})
        return [
            Candidate(
                node_id=NodeId(row.node_id),
                capacity=Resources(row.vcpus, row.memory_mib),
                reserved=Resources(row.vcpus_reserved, row.memory_reserved_mib),
                disk_free_mib=row.disk_free_mib,
                pooled=row.pooled,
            )
            for row in rows
        ]

    def reserve(self, node_id: NodeId, request: Resources, *, build_id: BuildId) -> bool:
        """Take `request` from the node if it is still there, the node ready and the build on it; return whether."""
        result = self._connection.execute(
            _RESERVE,
            {
                "node": node_id,
                "build": build_id,
                "wanted_vcpus": request.vcpus,
                "wanted_memory_mib": request.memory_mib,
            },
        )
        return result.rowcount == 1

    def reserve_again(self, node_id: NodeId, request: Resources) -> bool:
        """Take `request` for a sandbox that is on the node already; return whether it is ready and has room."""
        result = self._connection.execute(
            update(nodes)
            .where(
                nodes.c.node_id == node_id,
                nodes.c.state == NodeState.READY,
                nodes.c.vcpus_reserved + request.vcpus <= nodes.c.vcpus,
                nodes.c.memory_reserved_mib + request.memory_mib <= nodes.c.memory_mib,
            )
            .values(
                vcpus_reserved=nodes.c.vcpus_reserved + request.vcpus,
                memory_reserved_mib=nodes.c.memory_reserved_mib + request.memory_mib,
            )
        )
        return result.rowcount == 1

    def release(self, before: Sandbox, after: Sandbox) -> None:
        """Give back what `before` held, and holds no longer as `after`, which this transaction has just written."""
        held = before.resources.times(before.machines - after.machines)
        if held.vcpus <= 0:
            return
        self._connection.execute(
            update(nodes)
            .where(nodes.c.node_id == after.node_id)
            .values(
                vcpus_reserved=nodes.c.vcpus_reserved - held.vcpus,
                memory_reserved_mib=nodes.c.memory_reserved_mib - held.memory_mib,
            )
        )


# On the path of every create: built once, since building a statement costs as much as running it.
_CANDIDATES = (
    select(
        nodes.c.node_id,
        nodes.c.vcpus,
        nodes.c.memory_mib,
        nodes.c.vcpus_reserved,
        nodes.c.memory_reserved_mib,
        nodes.c.disk_free_mib,
        replicas.c.pooled,
    )
    .join(replicas, replicas.c.node_id == nodes.c.node_id)
    .where(
        replicas.c.build_id == bindparam("build"),
        replicas.c.state == ReplicaState.READY,
        nodes.c.state == NodeState.READY,
        nodes.c.draining.is_(False),
    )
)
_RESERVE = (
    update(nodes)
    .where(
        nodes.c.node_id == bindparam("node"),
        nodes.c.state == NodeState.READY,
        nodes.c.vcpus_reserved + bindparam("wanted_vcpus") <= nodes.c.vcpus,
        nodes.c.memory_reserved_mib + bindparam("wanted_memory_mib") <= nodes.c.memory_mib,
        exists().where(
            replicas.c.build_id == bindparam("build"),
            replicas.c.node_id == bindparam("node"),
            replicas.c.state == ReplicaState.READY,
        ),
    )
    .values(
        vcpus_reserved=nodes.c.vcpus_reserved + bindparam("wanted_vcpus"),
        memory_reserved_mib=nodes.c.memory_reserved_mib + bindparam("wanted_memory_mib"),
    )
)


def _node(row: Row[tuple[object, ...]]) -> Node:
    return Node(
        node_id=NodeId(row.node_id),
        state=NodeState(row.state),
        detail=row.detail,
        endpoint=row.endpoint,
        version=row.version,
        boot_id=row.boot_id,
        vmm=row.vmm,
        accelerator=row.accelerator,
        capacity=Resources(row.vcpus, row.memory_mib),
        disk_free_mib=row.disk_free_mib,
        last_heartbeat_at=row.last_heartbeat_at,
    )
