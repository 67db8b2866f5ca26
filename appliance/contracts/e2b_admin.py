"""Public shapes of E2B's operator routes. What E2B counts since a node's start is counted over the last day here."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

CLUSTER_ID = "00000000-0000-0000-0000-000000000000"
"""E2B has several clusters and this id for the default one; here there is one."""

NodeStatus = Literal["ready", "draining", "connecting", "unhealthy", "standby"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class MachineInfo(_Answer):
    cpuFamily: str
    cpuModel: str
    cpuModelName: str
    cpuArchitecture: str


class DiskMetrics(_Answer):
    mountPoint: str
    device: str
    filesystemType: str
    usedBytes: int
    totalBytes: int


class NodeMetrics(_Answer):
    allocatedCPU: int
    allocatedMemoryBytes: int
    cpuPercent: int
    cpuCount: int
    memoryUsedBytes: int
    memoryTotalBytes: int
    disks: tuple[DiskMetrics, ...]
    hugePagesTotal: int
    hugePagesUsed: int
    hugePagesReserved: int
    hugePageSizeBytes: int


class Node(_Answer):
    id: str
    serviceInstanceID: str
    """The boot id of its machine."""
    clusterID: str = CLUSTER_ID
    version: str
    commit: str = ""
    """Releases are told apart by their version."""
    machineInfo: MachineInfo
    status: NodeStatus
    statusChangedAt: datetime
    sandboxCount: int
    sandboxStartingCount: int
    createSuccesses: int
    createFails: int
    metrics: NodeMetrics


class NodeStatusChange(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    status: NodeStatus
    clusterID: str | None = None


class KillResult(_Answer):
    killedCount: int
    failedCount: int


class CancelResult(_Answer):
    cancelledCount: int
    failedCount: int
