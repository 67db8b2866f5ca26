"""A Cubelet behind its real wire, on fake drivers: what it decides and what it leaves on disk are the real things.

The fakes keep machines and taps as a kernel does, so that a Cubelet may be stopped and started again on the same node.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI, Response

from appliance.clients.node import NodeClient
from appliance.common.http import InternalClient
from appliance.contracts.node import BuildProgress, BuildRequest, BuildState, CreateSandbox, EndedSandbox, NodeStatus
from appliance.cubelet.app import Drivers, create_app
from appliance.cubelet.ended import EndedStore
from appliance.cubelet.runtime import RecordStore, Stage, VmRecord
from appliance.cubelet.settings import CubeletSettings, DeadlineSettings, NetworkSettings, PoolSettings
from appliance.cubevs.fake import FakeSwitch
from appliance.domain.ids import SandboxId, new_sandbox_id
from appliance.hypervisor.fake import FakeHost, FakeHypervisor
from appliance.storage.base import ImageConfig
from appliance.storage.fake import FakeDiskStore, FakeImageStore
from tests.support.fake_guests import FakeGuests
from tests.support.fake_node import serve_on
from tests.support.waiting import eventually

IMAGE = "oci:/images/base"
TEMPLATE = "base-template"


@dataclass
class NewsDesk:
    """CubeMaster as a Cubelet sees it: takes heartbeats and news of ends, or refuses them."""

    beats: list[NodeStatus] = field(default_factory=list)
    ended: list[EndedSandbox] = field(default_factory=list)
    refusing: bool = False
    answers_nonsense: bool = False

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/nodes/{node_id}/heartbeat")
        async def heartbeat(node_id: str, status: NodeStatus) -> Response:
            if self.answers_nonsense:
                return Response("<html>", status_code=500)
            if self.refusing:
                return Response('{"code": 503, "message": "no database"}', status_code=503)
            self.beats.append(status)
            return Response(status_code=204)

        @app.post("/v1/nodes/{node_id}/ended")
        async def ended(node_id: str, news: list[EndedSandbox]) -> Response:
            self.ended.extend(news)
            return Response(status_code=204)

        return app

    def reason_of(self, sandbox_id: str) -> str | None:
        return next((str(one.reason) for one in self.ended if one.sandbox_id == sandbox_id), None)


@dataclass(frozen=True)
class Ledger:
    """All that a node holds for VMs. Pool members belong to nobody but take part."""

    records: frozenset[str]
    runtime_dirs: frozenset[str]
    processes: frozenset[str]
    admitted: frozenset[str]
    """Sandboxes and VMs that a tap lets talk."""
    workspaces: frozenset[str]


@dataclass
class FakeMachineRoom:
    """One node: what outlives its Cubelet, and the Cubelet that runs on it now."""

    directory: Path
    guests: FakeGuests
    desk: NewsDesk
    settings: CubeletSettings
    host: FakeHost = field(default_factory=FakeHost)
    _switch: FakeSwitch | None = None

    @property
    def switch(self) -> FakeSwitch:
        if self._switch is None:
            self._switch = FakeSwitch(self.guests.network)
        return self._switch

    def __post_init__(self) -> None:
        self.images = FakeImageStore(self.settings.data_dir / "layers")
        self.images.add(IMAGE, config=ImageConfig(env=("PATH=/bin", "LANG=C.UTF-8"), user="user", working_dir="/home"))
        self.disks = FakeDiskStore()
        self.records = RecordStore(self.settings.data_dir / "sandboxes")
        self.ended = EndedStore(self.settings.data_dir / "ended")

    @asynccontextmanager
    async def cubelet(self) -> AsyncIterator[NodeClient]:
        """Run a Cubelet on this node; leaving the block stops it as SIGTERM does."""
        drivers = Drivers(FakeHypervisor(self.host), self.switch, self.images, self.disks)
        app = create_app(self.settings, drivers)
        async with (
            serve_on(app, self.settings.socket),
            InternalClient(f"unix://{self.settings.socket}", service="cubelet") as http,
        ):
            yield NodeClient(http)

    def reconfigured(self, **changes: object) -> None:
        """Change settings for the next Cubelet."""
        self.settings = self.settings.model_copy(update=changes)

    def ledger(self) -> Ledger:
        data = self.settings.data_dir
        ports = self.switch._ports.values()
        return Ledger(
            records=_names(data / "sandboxes"),
            runtime_dirs=_names(self.settings.run_dir),
            processes=frozenset(machine.spec.vm_id for machine in self.host.machines.values()),
            admitted=frozenset(port.admission.sandbox_id for port in ports if port.admission is not None),
            workspaces=frozenset(name for name in _names(data / "templates") if name.startswith(".")),
        )

    async def rest(self) -> Ledger:
        """Return the ledger once nothing is being made: a build is ready before its own VM is gone."""

        def at_rest() -> bool:
            found = self.records.load()
            return not found.debris and all(one.stage is not Stage.PREPARING for one in found.records)

        await eventually(at_rest)
        return self.ledger()

    def record_of(self, sandbox_id: str) -> VmRecord:
        return next(
            one
            for one in self.records.load().records
            if one.sandbox is not None and one.sandbox.sandbox_id == sandbox_id
        )


def _names(directory: Path) -> frozenset[str]:
    return frozenset(path.name for path in directory.iterdir()) if directory.is_dir() else frozenset()


def build_request(**changes: Any) -> BuildRequest:
    fields = {
        "template_id": TEMPLATE,
        "build_id": str(uuid4()),
        "image": IMAGE,
        "vcpus": 1,
        "memory_mib": 256,
        "writable_layer_mib": 16,
    }
    return BuildRequest.model_validate({**fields, **changes})


async def finished(node: NodeClient, build_id: str) -> BuildProgress:
    """Return the build once it has ended, either way."""
    async with asyncio.timeout(30):
        while (progress := await node.get_build(build_id)).state is BuildState.BUILDING:  # noqa: ASYNC110 - asks
            await asyncio.sleep(0.01)
    return progress


async def built(node: NodeClient, **changes: Any) -> str:
    """Build a template on the node and return the build's id."""
    request = build_request(**changes)
    await node.start_build(request)
    progress = await finished(node, request.build_id)
    assert progress.state is BuildState.READY, progress.reason
    return request.build_id


def wanted(build_id: str, *, lives: timedelta = timedelta(minutes=5), **changes: Any) -> CreateSandbox:
    fields = {"template_id": TEMPLATE, "build_id": build_id, "end_at": datetime.now(UTC) + lives}
    return CreateSandbox.model_validate({**fields, **changes})


async def created(node: NodeClient, build_id: str, **changes: Any) -> SandboxId:
    """Create a sandbox and return its id."""
    sandbox_id = new_sandbox_id()
    await node.create_sandbox(sandbox_id, wanted(build_id, **changes))
    return sandbox_id


async def pooled(node: NodeClient, build_id: str) -> int:
    """Return how many VMs wait for a build."""
    status = await node.status()
    return next((replica.pooled for replica in status.replicas if replica.build_id == build_id), 0)


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """Return once an asked question is answered with yes; TimeoutError where it never is."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - asked over a socket
            await asyncio.sleep(0.01)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Short: sockets live below, and their paths have at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cubelet-") as path:
        yield Path(path)


@pytest.fixture
async def guests() -> AsyncIterator[FakeGuests]:
    async with FakeGuests().serving() as guests:
        yield guests


@pytest.fixture
def pool_size() -> int:
    """No pool: most tests count VMs. Those about the pool override it."""
    return 0


@pytest.fixture
async def node(directory: Path, guests: FakeGuests, pool_size: int) -> AsyncIterator[FakeMachineRoom]:
    """A node without a Cubelet yet."""
    guest_dir = directory / "guest"
    guest_dir.mkdir()
    (guest_dir / "manifest.json").write_text(json.dumps({"machine": {"cmdline": "console=ttyS0"}}))
    for name in ("vmlinuz", "initramfs.img", "agent.squashfs"):
        (guest_dir / name).touch()
    settings = CubeletSettings(
        node_id="node-1",
        socket=directory / "cubelet.sock",
        endpoint=f"unix://{directory}/cubelet.sock",
        master=f"unix://{directory}/master.sock",
        data_dir=directory / "data",
        run_dir=directory / "vm",
        guest_dir=guest_dir,
        heartbeat_s=0.1,
        network=NetworkSettings(sandbox_network=guests.network, spare_taps=2),
        pool=PoolSettings(per_template=pool_size, total=4),
        deadlines=DeadlineSettings(boot_s=5, restore_s=5, init_s=1, ready_s=2, image_s=5),
    )
    settings.data_dir.mkdir()
    desk = NewsDesk()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve_on(desk.app(), directory / "master.sock"))
        yield FakeMachineRoom(directory, guests, desk, settings)


@pytest.fixture
async def cubelet(node: FakeMachineRoom) -> AsyncIterator[NodeClient]:
    async with node.cubelet() as client:
        yield client
