"""E2B's public shapes of nodes, from CubeMaster's."""

from __future__ import annotations

import re
from uuid import UUID

from appliance.contracts import e2b_admin as public
from appliance.contracts.master import NodeView
from appliance.contracts.node import HostReport
from appliance.domain.errors import InvalidRequest, NodeNotFound

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MIB = 1 << 20


def node(view: NodeView) -> public.Node:
    return public.Node(
        id=view.node_id,
        serviceInstanceID=view.boot_id,
        version=view.version,
        machineInfo=_machine(view.host),
        status=_status(view),
        statusChangedAt=view.status_changed_at,
        sandboxCount=view.sandboxes,
        sandboxStartingCount=view.starting,
        createSuccesses=view.started_lately,
        createFails=view.failed_lately,
        metrics=_metrics(view),
    )


def _status(view: NodeView) -> public.NodeStatus:
    if view.state != "ready":
        return "unhealthy"
    return "draining" if view.draining else "ready"


def _machine(host: HostReport | None) -> public.MachineInfo:
    return public.MachineInfo(
        cpuFamily=host.cpu_family if host else "",
        cpuModel=host.cpu_model if host else "",
        cpuModelName=host.cpu_model_name if host else "",
        cpuArchitecture=host.cpu_architecture if host else "",
    )


def _metrics(view: NodeView) -> public.NodeMetrics:
    # A node of an older release says nothing of its machine; its capacity stands in for what clients demand.
    host = view.host
    disks = (
        ()
        if host is None
        else (
            public.DiskMetrics(
                mountPoint=host.disk.mount_point,
                device=host.disk.device,
                filesystemType=host.disk.filesystem_type,
                usedBytes=host.disk.used_bytes,
                totalBytes=host.disk.total_bytes,
            ),
        )
    )
    return public.NodeMetrics(
        allocatedCPU=view.vcpus_reserved,
        allocatedMemoryBytes=view.memory_reserved_mib * _MIB,
        cpuPercent=round(host.cpu_used_pct) if host else 0,
        cpuCount=host.cpu_count if host else view.vcpus,
        memoryUsedBytes=host.memory_used_bytes if host else 0,
        memoryTotalBytes=host.memory_total_bytes if host else view.memory_mib * _MIB,
        disks=disks,
        hugePagesTotal=host.huge_pages_total if host else 0,
        hugePagesUsed=host.huge_pages_used if host else 0,
        hugePagesReserved=host.huge_pages_reserved if host else 0,
        hugePageSizeBytes=host.huge_page_size_bytes if host else 0,
    )


def draining(change: public.NodeStatusChange) -> bool:
    """Return whether the operator wants the node drained, or raise for what only a node can say of itself."""
    if change.status not in ("ready", "draining"):
        raise InvalidRequest(f"a node cannot be set to '{change.status}'; set it to ready or draining")
    return change.status == "draining"


def node_id(text: str) -> str:
    """Return the id of a node in a path."""
    if not _NODE_ID.fullmatch(text):
        raise NodeNotFound(text)
    return text


def is_our_cluster(cluster: str | None) -> bool:
    """Return whether a client means the one cluster there is."""
    try:
        return cluster is None or str(UUID(cluster)) == public.CLUSTER_ID
    except ValueError as error:
        raise InvalidRequest("Invalid cluster ID") from error
