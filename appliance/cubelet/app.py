"""Composition root of Cubelet: every object is built here by hand, and the concrete drivers are named only here."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
from appliance.cubelet.accelerator import basis_of, remembered_or
from appliance.cubelet.builds.builder import BuildDeadlines, Builder
from appliance.cubelet.builds.machine import BuildMachines
from appliance.cubelet.builds.origin import Origins
from appliance.cubelet.builds.step_cache import StepCache
from appliance.cubelet.builds.stepping import Stepping
from appliance.cubelet.concurrency import Activity
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.heartbeat import Heartbeat
from appliance.cubelet.metrics import CubeletMetrics
from appliance.cubelet.node import Node, boot_id
from appliance.cubelet.recovery import Recovery
from appliance.cubelet.routes import builds, node, sandbox_metrics, sandboxes
from appliance.cubelet.runtime import RecordStore
from appliance.cubelet.services.machines import Machines
from appliance.cubelet.services.pool import Pool
from appliance.cubelet.services.sampler import Sampler
from appliance.cubelet.services.sandboxes import Sandboxes
from appliance.cubelet.services.taps import TapPool
from appliance.cubelet.services.template_store import TemplateStore
from appliance.cubelet.services.templates import Templates
from appliance.cubelet.settings import CubeletSettings
from appliance.cubevs.base import Switch
from appliance.cubevs.switch import CubeVS, SwitchSettings
from appliance.hypervisor.base import Accelerator, BootSource, Hypervisor
from appliance.hypervisor.probe import choose_accelerator
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.scopes.choose import choose_scopes
from appliance.storage.base import DiskStore, ImageStore
from appliance.storage.disks import LocalDiskStore
from appliance.storage.layers import LocalImageStore


@dataclass(frozen=True, slots=True)
class Drivers:
    """The concrete sides of the seams. The fakes of each package fit too, and tests use them."""

    hypervisor: Hypervisor
    switch: Switch
    images: ImageStore
    disks: DiskStore


async def production_drivers(settings: CubeletSettings) -> Drivers:
    """Return the drivers of a real node, with the accelerator that has been seen to run its guest kernel."""

    def qemu(accelerator: Accelerator) -> QemuHypervisor:
        return QemuHypervisor(
            accelerator=accelerator,
            scopes=choose_scopes(),
            binary=settings.qemu,
            restore_concurrency=settings.restore_concurrency,
        )

    image = guest_image.load(settings.guest_dir)

    async def choose() -> Accelerator:
        source = BootSource(kernel=image.kernel, initramfs=image.initramfs, cmdline=image.cmdline)
        limits = {
            Accelerator.KVM: timedelta(seconds=settings.deadlines.kvm_probe_s),
            Accelerator.TCG: timedelta(seconds=settings.deadlines.tcg_probe_s),
        }
        return (await choose_accelerator(qemu, source, deadlines=limits)).accelerator

    accelerator = await remembered_or(
        choose,
        memory=settings.data_dir / "accelerator.json",
        basis=basis_of(boot_id(), settings.qemu, image.kernel),
    )
    return Drivers(
        hypervisor=qemu(accelerator),
        switch=CubeVS(
            SwitchSettings(
                network=settings.network.sandbox_network,
                bpffs=settings.network.bpffs,
                dns_address=settings.network.dns_address,
                denied_networks=settings.network.denied_networks,
                vmm_uid_base=settings.vmm_uid_base,
            )
        ),
        images=LocalImageStore(settings.data_dir / "layers"),
        disks=LocalDiskStore(settings.data_dir / "uppers"),
    )


def _builder(
    settings: CubeletSettings,
    drivers: Drivers,
    *,
    master: MasterClient,
    machines: Machines,
    taps: TapPool,
    store: TemplateStore,
    step_cache: StepCache,
    metrics: CubeletMetrics,
) -> Builder:
    deadlines = settings.deadlines
    boot_deadline, init_deadline = timedelta(seconds=deadlines.boot_s), timedelta(seconds=deadlines.init_s)
    image_deadline = timedelta(seconds=deadlines.image_s)
    return Builder(
        hypervisor=drivers.hypervisor,
        disks=drivers.disks,
        origins=Origins(images=drivers.images, store=store, image_deadline=image_deadline),
        machines=BuildMachines(
            hypervisor=drivers.hypervisor,
            switch=drivers.switch,
            taps=taps,
            machines=machines,
            guest_image=guest_image.load(settings.guest_dir),
            boot_deadline=boot_deadline,
            init_deadline=init_deadline,
        ),
        store=store,
        stepping=Stepping(
            cache=step_cache,
            hypervisor=drivers.hypervisor,
            disks=drivers.disks,
            files=master.template_files,
            metrics=metrics,
            step_deadline=timedelta(seconds=deadlines.step_s),
            control_deadline=boot_deadline,
        ),
        deadlines=BuildDeadlines(
            boot=boot_deadline,
            ready=timedelta(seconds=deadlines.ready_s),
            init=init_deadline,
            image=image_deadline,
            whole=timedelta(seconds=deadlines.build_s),
        ),
    )


def create_app(settings: CubeletSettings, drivers: Drivers, clock: Clock | None = None) -> FastAPI:
    """Return the application; its drivers start, and the node is recovered, when it is served."""
    clock = clock or SystemClock()
    deadlines = settings.deadlines
    restore_deadline = timedelta(seconds=deadlines.restore_s)
    init_deadline = timedelta(seconds=deadlines.init_s)
    this_boot = boot_id()
    registry = CollectorRegistry()
    metrics = CubeletMetrics(registry)
    supervisor = Supervisor()
    creates = Activity(clock)
    records = RecordStore(settings.data_dir / "sandboxes")
    store = TemplateStore(settings.data_dir / "templates", settings.data_dir / "layers")
    ended = EndedStore(settings.data_dir / "ended")
    taps = TapPool(drivers.switch, spare=settings.network.spare_taps)
    machines = Machines(
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        disks=drivers.disks,
        taps=taps,
        records=records,
        clock=clock,
        run_dir=settings.run_dir,
        node_address=settings.network.node_address,
        uid_base=settings.vmm_uid_base,
        boot_id=this_boot,
        restore_deadline=restore_deadline,
        init_deadline=init_deadline,
    )
    pool = Pool(
        machines=machines,
        templates=store,
        clock=clock,
        per_template=settings.pool.per_template,
        total=settings.pool.total,
        creates=creates,
    )
    live = Sandboxes(
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        machines=machines,
        templates=store,
        pool=pool,
        creates=creates,
        ended=ended,
        supervisor=supervisor,
        clock=clock,
        metrics=metrics,
        restore_concurrency=settings.restore_concurrency,
        restore_deadline=restore_deadline,
        init_deadline=init_deadline,
    )
    master_http = InternalClient(settings.master, service="cube-master")
    master = MasterClient(master_http, files_deadline=timedelta(seconds=deadlines.step_s))
    step_cache = StepCache(
        settings.data_dir / "steps",
        disks=drivers.disks,
        metrics=metrics,
        limit_bytes=settings.capacity.step_cache_mib * 2**20,
        reserve_bytes=settings.capacity.disk_reserve_mib * 2**20,
    )
    templates = Templates(
        builder=_builder(
            settings,
            drivers,
            master=master,
            machines=machines,
            taps=taps,
            store=store,
            step_cache=step_cache,
            metrics=metrics,
        ),
        images=drivers.images,
        store=store,
        step_cache=step_cache,
        supervisor=supervisor,
        clock=clock,
    )
    recovery = Recovery(
        hypervisor=drivers.hypervisor,
        switch=drivers.switch,
        machines=machines,
        records=records,
        templates=store,
        taps=taps,
        pool=pool,
        sandboxes=live,
        ended=ended,
        clock=clock,
        run_dir=settings.run_dir,
        boot_id=this_boot,
    )
    sampler = Sampler(live, clock, interval=timedelta(seconds=settings.sample_interval_s))
    this_node = Node(settings=settings, boot_id=this_boot, sandboxes=live, sampler=sampler, templates=store, pool=pool)

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
            await recovery.run()
            heartbeat = Heartbeat(
                master=master,
                node=this_node,
                ended=ended,
                interval=timedelta(seconds=settings.heartbeat_s),
            )
            supervisor.spawn(heartbeat.run(), name="heartbeat")
            supervisor.every(timedelta(seconds=0.5), taps.replenish, name="taps")
            supervisor.every(timedelta(seconds=0.2), pool.refill, name="pool-refill")
            supervisor.every(timedelta(seconds=5), pool.trim, name="pool-trim")
            supervisor.every(timedelta(seconds=settings.sample_interval_s), sampler.step, name="samples")
            supervisor.every(timedelta(minutes=1), drivers.switch.reap, name="switch-reap")
            yield

    app = FastAPI(title="Cubelet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    install_error_handlers(app)
    app.include_router(sandboxes.router(live, sampler))
    app.include_router(sandbox_metrics.router(sampler))
    app.include_router(builds.router(templates, live, pool))
    app.include_router(node.router(this_node, drivers.switch, metrics, registry))
    return app
