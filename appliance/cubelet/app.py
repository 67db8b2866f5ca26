"""Composition root of Cubelet: every object is built here by hand, and the concrete drivers are named only here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from appliance import __version__
from appliance.clients.master import MasterClient
from appliance.common.clock import Clock, SystemClock
from appliance.common.http import InternalClient, install_error_handlers
from appliance.common.supervisor import Supervisor
from appliance.cubelet import guest_image
from appliance.cubelet.building import build_templates
from appliance.cubelet.concurrency import Activity
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.heartbeat import Heartbeat
from appliance.cubelet.lifecycle import build_lifecycle
from appliance.cubelet.log_store import LogStore
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.node import Node, boot_id
from appliance.cubelet.recovery import Recovery
from appliance.cubelet.remembered import Remembered, basis_of, remembered_or
from appliance.cubelet.routes import builds, node, sandbox_logs, sandbox_metrics, sandboxes, volumes
from appliance.cubelet.runtime import RecordStore
from appliance.cubelet.services.booting import Boots
from appliance.cubelet.services.log_collector import LogCollector
from appliance.cubelet.services.machines import Machines
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.sampler import Sampler
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import TemplateStore
from appliance.cubelet.services.volume_store import VolumeStore
from appliance.cubelet.settings import CubeletSettings
from appliance.cubevs.base import Switch
from appliance.cubevs.switch import CubeVS, SwitchSettings
from appliance.hypervisor.base import Accelerator, BootSource, Hypervisor
from appliance.hypervisor.probe import choose_accelerator
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.qemu.self_test import objection_to_dirty_pages
from appliance.hypervisor.scopes.choose import choose_scopes
from appliance.storage.base import DiskStore, ImageStore
from appliance.storage.disks import LocalDiskStore
from appliance.storage.layers import LocalImageStore
from appliance.storage.pull_network import Reach


@dataclass(frozen=True, slots=True)
class Drivers:
    """The concrete sides of the seams. The fakes of each package fit too, and tests use them."""

    hypervisor: Hypervisor
    switch: Switch
    images: ImageStore
    disks: DiskStore


async def production_drivers(settings: CubeletSettings) -> Drivers:
    """Return the drivers of a real node, with the accelerator that has been seen to run its guest kernel."""

    def qemu(accelerator: Accelerator, *, dirty_page_snapshots: bool = False) -> QemuHypervisor:
        return QemuHypervisor(
            accelerator=accelerator,
            scopes=choose_scopes(),
            binary=settings.qemu,
            restore_concurrency=settings.restore_concurrency,
            dirty_page_snapshots=dirty_page_snapshots,
        )

    image = guest_image.load(settings.guest_dir)

    source = BootSource(kernel=image.kernel, initramfs=image.initramfs, cmdline=image.cmdline)

    async def choose() -> Accelerator:
        limits = {
            Accelerator.KVM: timedelta(seconds=settings.deadlines.kvm_probe_s),
            Accelerator.TCG: timedelta(seconds=settings.deadlines.tcg_probe_s),
        }
        return (await choose_accelerator(qemu, source, deadlines=limits)).accelerator

    basis = basis_of(boot_id(), settings.qemu, image.kernel)
    accelerator = await remembered_or(
        Remembered[Accelerator], choose, memory=settings.data_dir / "accelerator.json", basis=basis
    )

    async def self_test() -> str | None:
        tried = qemu(accelerator, dirty_page_snapshots=True)
        try:
            return await objection_to_dirty_pages(
                tried, source, deadline=timedelta(seconds=settings.deadlines.self_test_s)
            )
        finally:
            await tried.close()

    objection = await remembered_or(
        Remembered[str | None],
        self_test,
        memory=settings.data_dir / "changed-pages.json",
        basis=(*basis, accelerator),
    )
    return Drivers(
        hypervisor=qemu(accelerator, dirty_page_snapshots=objection is None),
        switch=CubeVS(
            SwitchSettings(
                network=settings.network.sandbox_network,
                bpffs=settings.network.bpffs,
                egress_rules=settings.network.egress_rules,
                egress_seed=settings.data_dir / "egress-seed",
                dns_address=settings.network.dns_address,
                denied_networks=settings.network.denied_networks,
                vmm_uid_base=settings.vmm_uid_base,
            )
        ),
        images=LocalImageStore(
            settings.data_dir / "layers",
            reach=Reach(
                internal=frozenset(settings.internal_registries),
                denied=(settings.network.sandbox_network, *settings.network.denied_networks),
            ),
        ),
        disks=LocalDiskStore(settings.data_dir / "uppers"),
    )


def log_store(settings: CubeletSettings) -> LogStore:
    return LogStore(
        settings.data_dir / "logs",
        max_bytes=settings.logs.per_sandbox_kib * 1024,
        total_bytes=settings.logs.total_mib * 1024 * 1024,
        keep=timedelta(hours=settings.logs.keep_ended_h),
    )


def create_app(settings: CubeletSettings, drivers: Drivers, clock: Clock | None = None) -> FastAPI:
    """Return the application; its drivers start, and the node is recovered, when it is served."""
    clock = clock or SystemClock()
    deadlines = settings.deadlines
    this_boot = boot_id()
    registry = CollectorRegistry()
    metrics = CubeletMetrics(registry)
    supervisor = Supervisor()
    creates = Activity(clock)
    records = RecordStore(settings.data_dir / "sandboxes")
    store = TemplateStore(settings.data_dir / "templates", settings.data_dir / "layers")
    ended = EndedStore(settings.data_dir / "ended")
    taps = TapPool(drivers.switch, spare=settings.network.spare_taps)
    image = guest_image.load(settings.guest_dir)
    boots = Boots(
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        guest_image=image,
        boot_deadline=timedelta(seconds=deadlines.boot_s),
    )
    volume_store = VolumeStore(settings.data_dir / "volumes", drivers.disks, size_mib=settings.volumes.size_mib)
    machines = Machines(
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        disks=drivers.disks,
        taps=taps,
        records=records,
        templates=store,
        volumes=volume_store,
        boots=boots,
        clock=clock,
        run_dir=settings.run_dir,
        node_address=settings.network.node_address,
        uid_base=settings.vmm_uid_base,
        boot_id=this_boot,
        restore_deadline=timedelta(seconds=deadlines.restore_s),
        init_deadline=timedelta(seconds=deadlines.init_s),
    )
    pool = Pool(
        machines=machines,
        templates=store,
        clock=clock,
        per_template=settings.pool.per_template,
        total=settings.pool.total,
        creates=creates,
    )
    logs = LogCollector(log_store(settings), clock)
    life = build_lifecycle(
        settings,
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        disks=drivers.disks,
        machines=machines,
        records=records,
        volume_store=volume_store,
        boots=boots,
        agent_disk=image.agent_disk,
        templates=store,
        pool=pool,
        taps=taps,
        creates=creates,
        ended=ended,
        last_words=logs.last_words,
        rewound=logs.rewound,
        supervisor=supervisor,
        clock=clock,
        metrics=metrics,
        boot_id=this_boot,
    )
    master_http = InternalClient(settings.master, service="cube-master")
    master = MasterClient(master_http, files_deadline=timedelta(seconds=deadlines.step_s))
    templates, step_cache = build_templates(
        settings,
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        images=drivers.images,
        disks=drivers.disks,
        files=master.template_files,
        machines=machines,
        boots=boots,
        agent_disk=image.agent_disk,
        taps=taps,
        records=records,
        store=store,
        supervisor=supervisor,
        clock=clock,
        metrics=metrics,
    )
    recovery = Recovery(
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        machines=machines,
        records=records,
        templates=store,
        taps=taps,
        pool=pool,
        running=life.running,
        pausing=life.pausing,
        ended=ended,
        clock=clock,
        run_dir=settings.run_dir,
        boot_id=this_boot,
    )
    sampler = Sampler(life.sandboxes, logs, clock, interval=timedelta(seconds=settings.sample_interval_s))
    this_node = Node(
        settings=settings, boot_id=this_boot, sandboxes=life.sandboxes, sampler=sampler, templates=store, pool=pool
    )

    loops: tuple[tuple[str, float, Callable[[], Awaitable[None]]], ...] = (
        ("taps", 0.5, taps.replenish),
        ("pool-refill", 0.2, pool.refill),
        ("pool-trim", 5, pool.trim),
        ("samples", settings.sample_interval_s, sampler.step),
        ("logs-sweep", 60, lambda: logs.sweep(life.sandboxes.list())),
        ("switch-reap", 60, drivers.switch.reap),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            settings.run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            store.load()
            step_cache.load()
            await stack.enter_async_context(master_http)
            stack.push_async_callback(drivers.hypervisor.close)
            this_node.capabilities = await drivers.hypervisor.capabilities()
            await drivers.switch.start()
            stack.push_async_callback(pool.close)
            await stack.enter_async_context(supervisor)
            stack.push_async_callback(life.keepers.close)
            await recovery.run()
            heartbeat = Heartbeat(
                master=master,
                node=this_node,
                ended=ended,
                interval=timedelta(seconds=settings.heartbeat_s),
            )
            supervisor.spawn(heartbeat.run(), name="heartbeat")
            supervisor.spawn(life.expiry.run(), name="expiry")
            for name, seconds, step in loops:
                supervisor.every(timedelta(seconds=seconds), step, name=name)
            yield

    app = FastAPI(title="Cubelet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    install_error_handlers(app)
    for routes in (
        sandboxes.router(
            life.sandboxes, life.pausing, life.resuming, life.snapshots, rollbacks=life.rollbacks, sampler=sampler
        ),
        sandbox_metrics.router(sampler),
        sandbox_logs.router(logs),
        volumes.router(life.volumes, content_idle=timedelta(seconds=deadlines.content_idle_s)),
        builds.router(templates, life.sandboxes, pool),
        node.router(this_node, drivers.switch, metrics, registry),
    ):
        app.include_router(routes)
    return app
