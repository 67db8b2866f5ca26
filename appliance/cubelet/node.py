"""What this node is and has, as CubeMaster and the operator see it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from appliance import __version__
from appliance.contracts.node import NodeStatus, Replica
from appliance.cubelet.host import HostWatch
from appliance.cubelet.mapping import node_sandbox
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.sampler import Sampler
from appliance.cubelet.services.sandboxes import Sandboxes
from appliance.cubelet.services.template_store import TemplateStore
from appliance.cubelet.settings import CubeletSettings
from appliance.domain.errors import Unavailable
from appliance.hypervisor.base import Capabilities


class Node:
    """Answers for this node: identity, capacity, and what it holds."""

    def __init__(
        self,
        *,
        settings: CubeletSettings,
        boot_id: str,
        sandboxes: Sandboxes,
        sampler: Sampler,
        templates: TemplateStore,
        pool: Pool,
    ) -> None:
        self._settings = settings
        self.capabilities: Capabilities | None = None
        """Known once the VMM has been tried, before the first request is taken."""
        self._boot_id = boot_id
        self._sandboxes = sandboxes
        self._sampler = sampler
        self._templates = templates
        self._pool = pool
        capacity = settings.capacity
        self._vcpus = max(1, int((os.cpu_count() or 1) * capacity.vcpu_overcommit))
        self._memory_mib = capacity.memory_mib or total_memory_mib() * 3 // 4
        self._host = HostWatch(settings.data_dir)

    def status(self) -> NodeStatus:
        free_mib = shutil.disk_usage(self._settings.data_dir).free >> 20
        reserve = self._settings.capacity.disk_reserve_mib
        ready = free_mib >= reserve
        capabilities = self.capabilities
        if capabilities is None:
            raise Unavailable("this node is still starting")
        return NodeStatus(
            node_id=self._settings.node_id,
            version=__version__,
            endpoint=self._settings.endpoint,
            boot_id=self._boot_id,
            vmm=f"{capabilities.vmm} {capabilities.version}",
            accelerator=capabilities.accelerator,
            vcpus=self._vcpus,
            memory_mib=self._memory_mib,
            disk_free_mib=free_mib,
            ready=ready,
            detail="" if ready else f"{free_mib} MiB of disk are free, {reserve} MiB are kept in reserve",
            sandboxes=tuple(
                node_sandbox(
                    record,
                    sampled=self._sampler.watches(record),
                    changing=self._sandboxes.is_changing(record),
                )
                for record in self._sandboxes.list()
            ),
            replicas=tuple(
                Replica(
                    template_id=template.template_id,
                    build_id=template.build_id,
                    pooled=self._pool.waiting(template.build_id),
                )
                for template in self._templates.all()
            ),
            host=self._host.read(),
        )


def total_memory_mib(meminfo: Path = Path("/proc/meminfo")) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) >> 10
    raise ValueError(f"{meminfo} has no MemTotal")


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    return path.read_text().strip()
