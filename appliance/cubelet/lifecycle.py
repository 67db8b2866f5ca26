"""The part of the composition root that is about sandboxes: what happens to them between create and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.cubelet.concurrency import Activity
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import RecordStore, VmRecord
from appliance.cubelet.services.booting import Boots
from appliance.cubelet.services.expiry import Expiry
from appliance.cubelet.services.keepers import Keepers
from appliance.cubelet.services.machines import Machines
from appliance.cubelet.services.pausing import Pausing
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.registry import Registry
from appliance.cubelet.services.resuming import Resuming
from appliance.cubelet.services.rollbacks import Rollbacks
from appliance.cubelet.services.running import Running
from appliance.cubelet.services.sandboxes import Sandboxes
from appliance.cubelet.services.snapshots import Snapshots
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import TemplateStore
from appliance.cubelet.services.timers import Timers
from appliance.cubelet.services.volume_store import VolumeStore
from appliance.cubelet.services.volumes import Volumes
from appliance.cubelet.settings import CubeletSettings
from appliance.cubevs.base import Switch
from appliance.hypervisor.base import Hypervisor
from appliance.storage.base import DiskStore


@dataclass(frozen=True, slots=True)
class Lifecycle:
    running: Running
    sandboxes: Sandboxes
    pausing: Pausing
    resuming: Resuming
    snapshots: Snapshots
    rollbacks: Rollbacks
    expiry: Expiry
    volumes: Volumes
    keepers: Keepers


def build_lifecycle(
    settings: CubeletSettings,
    *,
    hypervisor: Hypervisor,
    switch: Switch,
    disks: DiskStore,
    machines: Machines,
    records: RecordStore,
    volume_store: VolumeStore,
    boots: Boots,
    agent_disk: Path,
    templates: TemplateStore,
    pool: Pool,
    taps: TapPool,
    creates: Activity,
    ended: EndedStore,
    last_words: Callable[[VmRecord], Awaitable[None]],
    rewound: Callable[[VmRecord, str | None], Awaitable[None]],
    supervisor: Supervisor,
    clock: Clock,
    metrics: CubeletMetrics,
    boot_id: str,
) -> Lifecycle:
    registry = Registry()
    timers = Timers(clock)
    # More restores at once than this only slow each other down (performance.md, F2).
    restores = asyncio.Semaphore(settings.restore_concurrency)
    save_deadline = timedelta(seconds=settings.deadlines.save_s)
    flush_deadline = timedelta(seconds=settings.deadlines.flush_s)
    running = Running(
        hypervisor=hypervisor,
        machines=machines,
        registry=registry,
        timers=timers,
        ended=ended,
        last_words=last_words,
        supervisor=supervisor,
        clock=clock,
        metrics=metrics,
    )
    keepers = Keepers(
        hypervisor=hypervisor,
        disks=disks,
        taps=taps,
        records=records,
        machines=machines,
        boots=boots,
        agent_disk=agent_disk,
        supervisor=supervisor,
        metrics=metrics,
        most=settings.volumes.served,
        memory_mib=settings.volumes.server_memory_mib,
        idle=timedelta(seconds=settings.volumes.served_idle_s),
        boot_deadline=timedelta(seconds=settings.deadlines.boot_s),
        init_deadline=timedelta(seconds=settings.deadlines.init_s),
    )
    volumes = Volumes(store=volume_store, registry=registry, keepers=keepers)
    sandboxes = Sandboxes(
        switch=switch,
        machines=machines,
        templates=templates,
        pool=pool,
        creates=creates,
        registry=registry,
        running=running,
        volumes=volumes,
        timers=timers,
        clock=clock,
        metrics=metrics,
        restores=restores,
    )
    pausing = Pausing(
        hypervisor=hypervisor,
        disks=disks,
        machines=machines,
        records=records,
        registry=registry,
        timers=timers,
        clock=clock,
        metrics=metrics,
        save_deadline=save_deadline,
        flush_deadline=flush_deadline,
    )
    resuming = Resuming(
        disks=disks,
        taps=taps,
        machines=machines,
        records=records,
        registry=registry,
        running=running,
        pausing=pausing,
        metrics=metrics,
        restores=restores,
        flush_deadline=flush_deadline,
        boot_id=boot_id,
    )
    snapshots = Snapshots(
        hypervisor=hypervisor,
        disks=disks,
        machines=machines,
        records=records,
        registry=registry,
        templates=templates,
        metrics=metrics,
        save_deadline=save_deadline,
        flush_deadline=flush_deadline,
    )
    rollbacks = Rollbacks(
        machines=machines,
        registry=registry,
        templates=templates,
        running=running,
        last_words=last_words,
        rewound=rewound,
        metrics=metrics,
        restores=restores,
    )
    expiry = Expiry(
        registry=registry,
        running=running,
        pausing=pausing,
        timers=timers,
        supervisor=supervisor,
        tell=ended.changed.set,
        retry_s=settings.pause_retry_s,
    )
    return Lifecycle(running, sandboxes, pausing, resuming, snapshots, rollbacks, expiry, volumes, keepers)
