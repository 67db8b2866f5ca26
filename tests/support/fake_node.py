"""A Cubelet kept in memory, behind the real wire: `contracts/node.py` over a Unix socket, without guests.

A test may make it fail, stall, forget its builds or restart, which is what CubeMaster must survive.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response

from appliance.common.http import install_error_handlers
from appliance.contracts.node import (
    AccessToken,
    BuildLogEntry,
    BuildProgress,
    BuildRequest,
    BuildState,
    CreateSandbox,
    Deadline,
    MetricSample,
    NodeSandbox,
    NodeSandboxState,
    NodeStatus,
    Pause,
    Replica,
    Resume,
    Rollback,
    SandboxLogEntry,
    Snapshot,
    SnapshotTaken,
)
from appliance.contracts.node_network import NetworkPolicy
from appliance.cubelet.log_store import LogQuery
from appliance.domain.errors import BuildNotFound, Conflict, CubeError, SandboxNotFound
from appliance.domain.template import levels_from
from tests.support.fake_volumes import FakeVolumes


@dataclass
class FakeNode:
    socket: Path
    node_id: str = "cube-1"
    boot_id: str = "11111111-1111-1111-1111-111111111111"
    vcpus: int = 16
    memory_mib: int = 8192
    disk_free_mib: int = 100_000
    ready: bool = True
    pooled: int = 1
    sandboxes: dict[str, NodeSandbox] = field(default_factory=dict)
    requests: dict[str, CreateSandbox] = field(default_factory=dict)
    builds: dict[str, BuildRequest] = field(default_factory=dict)
    logs: dict[str, list[BuildLogEntry]] = field(default_factory=dict)
    said: dict[str, list[SandboxLogEntry]] = field(default_factory=dict)
    """Logs of sandboxes, kept when they end."""
    finished: dict[str, BuildState] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failed_steps: dict[str, str] = field(default_factory=dict)
    builder: Callable[[BuildRequest], Awaitable[None]] | None = None
    """Carries a build on once it was handed out; without one the test does."""
    fail_create: CubeError | None = None
    stall_create: asyncio.Event | None = None
    """Creates the sandbox, then keeps the caller waiting until it is set."""
    fail_delete: CubeError | None = None
    fail_pause: CubeError | None = None
    fail_resume: CubeError | None = None
    fail_snapshot: CubeError | None = None
    fail_rollback: CubeError | None = None
    stall: asyncio.Event | None = None
    """Carries out a pause, resume, snapshot or rollback, then keeps the caller waiting until it is set."""
    pauses: dict[str, list[Pause]] = field(default_factory=lambda: defaultdict(list))
    resumes: dict[str, list[Resume]] = field(default_factory=lambda: defaultdict(list))
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    rollbacks: dict[str, list[Rollback]] = field(default_factory=lambda: defaultdict(list))
    bases: dict[str, str] = field(default_factory=dict)
    """Of each snapshot, the build that its sandbox came from."""
    busy: set[str] = field(default_factory=set)
    """Sandboxes that it says are being paused or resumed."""
    locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """Each sandbox does one thing after the other."""
    deleted: list[str] = field(default_factory=list)
    tokens: dict[str, str | None] = field(default_factory=dict)
    """Access tokens given after the create."""
    policies: dict[str, NetworkPolicy] = field(default_factory=dict)
    """Network rules given after the create."""
    fail_network: CubeError | None = None
    samples: dict[str, list[MetricSample]] = field(default_factory=dict)
    builds_started: int = 0
    stall_progress: asyncio.Event | None = None
    """Says nothing of builds until it is set."""
    stalled: int = 0
    addresses: int = 0
    volumes: FakeVolumes = field(init=False)
    _working: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.volumes = FakeVolumes(self._holder)

    def status(self) -> NodeStatus:
        """Return what its next heartbeat says."""
        return NodeStatus(
            node_id=self.node_id,
            version="0.1.0",
            endpoint=f"unix://{self.socket}",
            boot_id=self.boot_id,
            vmm="fake",
            accelerator="none",
            vcpus=self.vcpus,
            memory_mib=self.memory_mib,
            disk_free_mib=self.disk_free_mib,
            ready=self.ready,
            sandboxes=tuple(self.sandboxes.values()),
            replicas=tuple(
                Replica(template_id=self.builds[one].template_id, build_id=one, pooled=self.pooled)
                for one, state in self.finished.items()
                if state is BuildState.READY
            ),
        )

    def sandbox(self, sandbox_id: str) -> NodeSandbox:
        if sandbox_id not in self.sandboxes:
            raise SandboxNotFound(sandbox_id)
        return self.sandboxes[sandbox_id]

    def _holder(self, volume_id: str) -> NodeSandbox | None:
        for sandbox_id, new in self.requests.items():
            if sandbox_id in self.sandboxes and volume_id in {mount.volume_id for mount in new.volumes}:
                return self.sandboxes[sandbox_id]
        return None

    def pause(self, sandbox_id: str, *, memory: bool = True) -> None:
        """Pause it, as the node does by itself when its time is up."""
        before = self.sandbox(sandbox_id)
        if before.state is NodeSandboxState.PAUSED:
            return
        self.sandboxes[sandbox_id] = before.model_copy(
            update={
                "state": NodeSandboxState.PAUSED,
                "generation": before.generation + 1,
                "paused_at": datetime.now(UTC),
                "filesystem_only": not memory,
                "address": None,
            }
        )

    def resume(self, sandbox_id: str, resume: Resume) -> NodeSandbox:
        before = self.sandbox(sandbox_id)
        if before.state is NodeSandboxState.RUNNING:
            return before
        self.addresses += 1
        self.sandboxes[sandbox_id] = before.model_copy(
            update={
                "state": NodeSandboxState.RUNNING,
                "generation": before.generation + 1,
                "paused_at": None,
                "filesystem_only": False,
                "address": f"10.88.1.{self.addresses % 250 + 1}",
                "end_at": resume.end_at,
                "network_revision": resume.network.revision,
            }
        )
        return self.sandboxes[sandbox_id]

    def take_snapshot(self, sandbox_id: str, snapshot: Snapshot) -> None:
        source = self.sandbox(sandbox_id)
        if source.state is NodeSandboxState.PAUSED:
            raise Conflict("it is paused")
        base = self.builds[source.build_id]
        self.snapshots[snapshot.build_id] = snapshot
        self.bases[snapshot.build_id] = source.build_id
        self.builds[snapshot.build_id] = base.model_copy(
            update={"template_id": snapshot.template_id, "build_id": snapshot.build_id}
        )
        self.logs[snapshot.build_id] = []
        self.finished[snapshot.build_id] = BuildState.READY

    def roll_back(self, sandbox_id: str, rollback: Rollback) -> NodeSandbox:
        before = self.sandbox(sandbox_id)
        if before.state is NodeSandboxState.PAUSED:
            raise Conflict("it is paused")
        if rollback.build_id not in self.finished:
            raise BuildNotFound(rollback.build_id)
        self.rollbacks[sandbox_id].append(rollback)
        self.addresses += 1
        self.sandboxes[sandbox_id] = before.model_copy(
            update={
                "generation": before.generation + 1,
                "address": f"10.88.1.{self.addresses % 250 + 1}",
                "network_revision": rollback.network.revision,
            }
        )
        return self.sandboxes[sandbox_id]

    def log(self, build_id: str, message: str, *, step: str | None = None, level: str = "info") -> None:
        entry = BuildLogEntry(timestamp=datetime.now(UTC), level=level, message=message, step=step)
        self.logs[build_id].append(entry)

    def finish_build(
        self, build_id: str, state: BuildState, *, reason: str | None = None, step: str | None = None
    ) -> None:
        self.finished[build_id] = state
        if step:
            self.failed_steps[build_id] = step
        if reason:
            self.reasons[build_id] = reason

    def forget_builds(self) -> None:
        self.builds.clear()
        self.logs.clear()
        self.finished.clear()

    def app(self) -> FastAPI:
        app = FastAPI()
        install_error_handlers(app)
        app.include_router(self.volumes.router())

        @app.put("/v1/sandboxes/{sandbox_id}")
        async def create(sandbox_id: str, new: CreateSandbox) -> NodeSandbox:
            if self.fail_create:
                raise self.fail_create
            self.volumes.take(new.volumes, sandbox_id)
            self.requests[sandbox_id] = new
            made = self.sandboxes.setdefault(
                sandbox_id,
                NodeSandbox(
                    sandbox_id=sandbox_id,
                    template_id=new.template_id,
                    build_id=new.build_id,
                    state=NodeSandboxState.RUNNING,
                    address=f"10.88.0.{len(self.requests) + 1}",
                    started_at=datetime.now(UTC),
                    end_at=new.end_at,
                    envd_version="0.6.13",
                    pooled=True,
                    network_revision=new.network.revision,
                ),
            )
            if self.stall_create:
                await self.stall_create.wait()
            return made

        @app.get("/v1/sandboxes/{sandbox_id}")
        async def get(sandbox_id: str) -> NodeSandbox:
            return self.sandbox(sandbox_id).model_copy(update={"changing": sandbox_id in self.busy})

        @app.post("/v1/sandboxes/{sandbox_id}/pause", status_code=204)
        async def pause(sandbox_id: str, new: Pause) -> Response:
            async with self.locks[sandbox_id]:
                await asyncio.sleep(0)
                self.sandbox(sandbox_id)
                if self.fail_pause:
                    raise self.fail_pause
                self.pauses[sandbox_id].append(new)
                self.pause(sandbox_id, memory=new.memory)
            if self.stall:
                await self.stall.wait()
            return Response(status_code=204)

        @app.post("/v1/sandboxes/{sandbox_id}/resume")
        async def resume(sandbox_id: str, new: Resume) -> NodeSandbox:
            async with self.locks[sandbox_id]:
                await asyncio.sleep(0)
                self.sandbox(sandbox_id)
                if self.fail_resume:
                    raise self.fail_resume
                self.resumes[sandbox_id].append(new)
                made = self.resume(sandbox_id, new)
            if self.stall:
                await self.stall.wait()
            return made

        @app.post("/v1/sandboxes/{sandbox_id}/snapshot", status_code=201)
        async def snapshot(sandbox_id: str, new: Snapshot) -> SnapshotTaken:
            async with self.locks[sandbox_id]:
                await asyncio.sleep(0)
                self.sandbox(sandbox_id)
                if self.fail_snapshot:
                    raise self.fail_snapshot
                if new.build_id not in self.snapshots:
                    self.take_snapshot(sandbox_id, new)
            if self.stall:
                await self.stall.wait()
            return SnapshotTaken(build_id=new.build_id, envd_version="0.6.13", disk_size_mib=1500)

        @app.post("/v1/sandboxes/{sandbox_id}/rollback")
        async def roll_back(sandbox_id: str, new: Rollback) -> NodeSandbox:
            async with self.locks[sandbox_id]:
                await asyncio.sleep(0)
                self.sandbox(sandbox_id)
                if self.fail_rollback:
                    raise self.fail_rollback
                made = self.roll_back(sandbox_id, new)
            if self.stall:
                await self.stall.wait()
            return made

        @app.put("/v1/sandboxes/{sandbox_id}/deadline", status_code=204)
        async def deadline(sandbox_id: str, new: Deadline) -> Response:
            before = self.sandbox(sandbox_id)
            if before.state is NodeSandboxState.PAUSED:
                raise Conflict(f"sandbox '{sandbox_id}' is paused")
            self.sandboxes[sandbox_id] = before.model_copy(update={"end_at": new.end_at})
            return Response(status_code=204)

        @app.put("/v1/sandboxes/{sandbox_id}/access-token", status_code=204)
        async def access_token(sandbox_id: str, new: AccessToken) -> Response:
            self.tokens[sandbox_id] = new.access_token
            before = self.sandboxes[sandbox_id]
            self.sandboxes[sandbox_id] = before.model_copy(update={"sampled": True})
            return Response(status_code=204)

        @app.put("/v1/sandboxes/{sandbox_id}/network", status_code=204)
        async def network(sandbox_id: str, new: NetworkPolicy) -> Response:
            if self.fail_network:
                raise self.fail_network
            self.policies[sandbox_id] = new
            before = self.sandbox(sandbox_id)
            self.sandboxes[sandbox_id] = before.model_copy(update={"network_revision": new.revision})
            return Response(status_code=204)

        @app.get("/v1/sandboxes/{sandbox_id}/metrics")
        async def metrics(
            sandbox_id: str, start: datetime | None = None, end: datetime | None = None
        ) -> list[MetricSample]:
            return [
                one
                for one in self.samples.get(sandbox_id, ())
                if (start is None or start <= one.at) and (end is None or one.at <= end)
            ]

        @app.get("/v1/sandboxes/{sandbox_id}/logs")
        async def said(
            sandbox_id: str,
            *,
            at: datetime | None = None,
            backward: bool = False,
            limit: int = 1000,
            level: str | None = None,
            search: str | None = None,
        ) -> list[SandboxLogEntry]:
            query = LogQuery(at=at, backward=backward, limit=limit, levels=levels_from(level), search=search)
            found = [entry for entry in self.said.get(sandbox_id, ()) if query.matches(entry)]
            return found[::-1][:limit] if backward else found[:limit]

        @app.get("/v1/sandbox-metrics")
        async def latest_metrics(sandbox_ids: str) -> dict[str, MetricSample]:
            return {one: self.samples[one][-1] for one in sandbox_ids.split(",") if one in self.samples}

        @app.delete("/v1/sandboxes/{sandbox_id}", status_code=204)
        async def delete(sandbox_id: str) -> Response:
            if self.fail_delete:
                raise self.fail_delete
            async with self.locks[sandbox_id]:
                self.deleted.append(sandbox_id)
                self.sandboxes.pop(sandbox_id, None)
            return Response(status_code=204)

        @app.post("/v1/builds", status_code=202)
        async def start_build(request: BuildRequest) -> Response:
            self.builds_started += 1
            self.builds[request.build_id] = request
            self.logs.setdefault(request.build_id, [])
            if self.builder is not None:
                work = asyncio.ensure_future(self.builder(request))
                self._working.add(work)
                work.add_done_callback(self._working.discard)
            return Response(status_code=202)

        @app.get("/v1/builds/{build_id}")
        async def get_build(build_id: str, log_offset: int = 0) -> BuildProgress:
            if self.stall_progress:
                self.stalled += 1
                await self.stall_progress.wait()
            if build_id not in self.builds:
                raise BuildNotFound(build_id)
            state = self.finished.get(build_id, BuildState.BUILDING)
            return BuildProgress(
                build_id=build_id,
                state=state,
                logs=tuple(self.logs[build_id][log_offset:]),
                reason=self.reasons.get(build_id),
                step=self.failed_steps.get(build_id),
                disk_size_mib=1500 if state is BuildState.READY else None,
                envd_version="0.6.13" if state is BuildState.READY else None,
            )

        @app.delete("/v1/templates/{template_id}/builds/{build_id}", status_code=204)
        async def delete_build(template_id: str, build_id: str) -> Response:
            if any(one.build_id == build_id for one in self.sandboxes.values()):
                raise Conflict(f"sandboxes of build '{build_id}' run")
            if build_id in self.bases.values():
                raise Conflict(f"snapshots need build '{build_id}'")
            self.builds.pop(build_id, None)
            self.finished.pop(build_id, None)
            self.snapshots.pop(build_id, None)
            self.bases.pop(build_id, None)
            return Response(status_code=204)

        return app

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with serve_on(self.app(), self.socket):
            yield


@asynccontextmanager
async def serve_on(app: FastAPI, path: Path) -> AsyncIterator[None]:
    """Serve `app` on a Unix socket in this event loop."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - a test may block that long
    listener.bind(str(path))
    async with _serve(app, listener):
        yield


@asynccontextmanager
async def serve_on_loopback(app: FastAPI) -> AsyncIterator[int]:
    """Serve `app` on a free port of 127.0.0.1 in this event loop, and yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with _serve(app, listener):
        yield listener.getsockname()[1]


@asynccontextmanager
async def _serve(app: FastAPI, listener: socket.socket) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=2, ws="none"))
    # The test's process keeps its own signal handlers.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(20):
            while not server.started:
                if serving.done():
                    serving.result()
                    raise RuntimeError("the server did not start")
                await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        async with asyncio.timeout(30):
            await serving
        listener.close()
