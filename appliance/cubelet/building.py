"""Wiring of template builds: what runs them, what they reuse, and what answers for them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from appliance.common.clock import Clock
from appliance.common.supervisor import Supervisor
from appliance.cubelet.builds.builder import BuildDeadlines, Builder
from appliance.cubelet.builds.machine import BuildMachines
from appliance.cubelet.builds.origin import Origins
from appliance.cubelet.builds.runner import FileSource
from appliance.cubelet.builds.step_cache import StepCache
from appliance.cubelet.builds.stepping import Stepping
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.runtime import RecordStore
from appliance.cubelet.services.booting import Boots
from appliance.cubelet.services.machines import Machines
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import TemplateStore
from appliance.cubelet.services.templates import Templates
from appliance.cubelet.settings import CubeletSettings
from appliance.cubevs.base import Switch
from appliance.hypervisor.base import Hypervisor
from appliance.storage.base import DiskStore, ImageStore


def build_templates(
    settings: CubeletSettings,
    *,
    hypervisor: Hypervisor,
    switch: Switch,
    images: ImageStore,
    disks: DiskStore,
    files: FileSource,
    machines: Machines,
    boots: Boots,
    agent_disk: Path,
    taps: TapPool,
    records: RecordStore,
    store: TemplateStore,
    supervisor: Supervisor,
    clock: Clock,
    metrics: CubeletMetrics,
) -> tuple[Templates, StepCache]:
    """Return the builds of this node, and what they reuse, to be loaded at start."""
    deadlines = BuildDeadlines(
        boot=timedelta(seconds=settings.deadlines.boot_s),
        ready=timedelta(seconds=settings.deadlines.ready_s),
        init=timedelta(seconds=settings.deadlines.init_s),
        whole=timedelta(seconds=settings.deadlines.build_s),
    )
    step_cache = StepCache(
        settings.data_dir / "steps",
        disks=disks,
        metrics=metrics,
        limit_bytes=settings.capacity.step_cache_mib * 2**20,
        reserve_bytes=settings.capacity.disk_reserve_mib * 2**20,
    )
    stepping = Stepping(
        cache=step_cache,
        hypervisor=hypervisor,
        disks=disks,
        files=files,
        metrics=metrics,
        step_deadline=timedelta(seconds=settings.deadlines.step_s),
        control_deadline=deadlines.boot,
    )
    build_machines = BuildMachines(
        hypervisor=hypervisor,
        switch=switch,
        taps=taps,
        machines=machines,
        boots=boots,
        agent_disk=agent_disk,
        volume_mib=settings.volumes.size_mib,
        boot_deadline=deadlines.boot,
        init_deadline=deadlines.init,
    )
    image_deadline = timedelta(seconds=settings.deadlines.image_s)
    builder = Builder(
        hypervisor=hypervisor,
        disks=disks,
        origins=Origins(images=images, store=store, image_deadline=image_deadline),
        machines=build_machines,
        store=store,
        stepping=stepping,
        deadlines=deadlines,
    )
    templates = Templates(
        builder=builder,
        images=images,
        store=store,
        records=records,
        step_cache=step_cache,
        supervisor=supervisor,
        clock=clock,
    )
    return templates, step_cache
