"""A real guest on a tap in a network namespace of its own: image -> disks -> machine -> agent."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from appliance.domain.ids import VmId
from appliance.hypervisor.base import BootSource, Disk, Nic, VmSpec
from appliance.hypervisor.process import ProcessWatch
from appliance.hypervisor.qemu.driver import QemuHypervisor
from tests.integration.guest_image.guest import GUEST_MAC, BootedGuest, boot_source, new_driver, tap_in
from tests.support.guest_images import PLACES
from tests.support.hypervisors import PATIENCE
from tests.support.netns import NetworkNamespace, network_namespace

Boot = Callable[[Sequence[Path]], Awaitable[BootedGuest]]
"""Boots a guest whose root is made of these layers, lowest first."""


@pytest.fixture(scope="session")
def source() -> BootSource:
    """Kernel, initramfs and agent disk as they are built now; without a change since the last build this is quick."""
    for target in ("kernel", "agent"):
        subprocess.run([PLACES.source / "build.py", target], check=True, timeout=600)
    return boot_source(PLACES.guest)


@pytest.fixture(scope="session")
def upper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ext4, to be copied."""
    path = tmp_path_factory.mktemp("upper") / "upper.ext4"
    with path.open("wb") as disk:
        disk.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", path], check=True, timeout=60)
    return path


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with network_namespace("guest-image") as namespace:
        yield namespace


@pytest.fixture
async def driver() -> AsyncIterator[QemuHypervisor]:
    driver = new_driver()
    try:
        yield driver
    finally:
        await driver.close()


@pytest.fixture
async def boot(
    source: BootSource, upper: Path, namespace: NetworkNamespace, driver: QemuHypervisor, tmp_path: Path
) -> AsyncIterator[Boot]:
    async with AsyncExitStack() as stack:

        async def boot(layers: Sequence[Path]) -> BootedGuest:
            tap_fd = stack.enter_context(tap_in(namespace))
            own_upper = tmp_path / "upper.ext4"
            subprocess.run(["cp", "--sparse=always", upper, own_upper], check=True, timeout=60)  # noqa: ASYNC221
            runtime = tmp_path / "machine"
            runtime.mkdir()
            spec = VmSpec(
                vm_id=VmId(f"guest-image-{namespace.name}"),
                vcpus=1,
                memory_mib=256,
                memory_file=runtime / "memory",
                disks=(
                    Disk(PLACES.guest / "agent.squashfs", read_only=True),
                    Disk(own_upper, read_only=False),
                    *(Disk(layer, read_only=True) for layer in layers),
                ),
                nic=Nic(tap_fd=tap_fd, mac=GUEST_MAC),
                runtime_dir=runtime,
                confinement=None,
            )
            vm = await driver.boot(spec, source, deadline=PATIENCE)
            stack.push_async_callback(driver.stop, vm)
            return BootedGuest(driver, vm, namespace, ProcessWatch(vm.pid))

        yield boot
