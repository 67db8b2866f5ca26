"""A Cubelet with its real drivers, and guests in a network namespace: builds run in QEMU, on squashfs and ext4."""

from __future__ import annotations

import asyncio
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from appliance.clients.guest import ExecResult, GuestClient
from appliance.clients.node import NodeClient
from appliance.common.http import InternalClient, install_error_handlers
from appliance.contracts.node import BuildProgress, BuildRequest, BuildState, BuildStep, CreateSandbox
from appliance.domain.errors import NotFound
from appliance.domain.ids import new_sandbox_id
from tests.support.appliance import BIN, ROOT, Service
from tests.support.fake_node import serve_on
from tests.support.netns import NetworkNamespace, network_namespace
from tests.support.waiting import eventually

BASE_IMAGE = f"oci:{ROOT}/build/images/base"
TEMPLATE = "the-template"
DISK_MIB = 256
_BUILD_LIMIT_S = 240


@dataclass
class FileDesk:
    """CubeMaster as far as a build needs it: the files of COPY steps."""

    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes) -> str:
        """Keep a tar and return its name."""
        name = uuid4().hex * 2
        self.files[name] = content
        return name

    def app(self) -> FastAPI:
        app = FastAPI()
        install_error_handlers(app)

        @app.post("/v1/nodes/{node_id}/heartbeat")
        async def heartbeat(node_id: str) -> Response:
            return Response(status_code=204)

        @app.get("/v1/template-files/{template_id}/{files_hash}")
        async def files(template_id: str, files_hash: str) -> Response:
            content = self.files.get(files_hash)
            if content is None:
                raise NotFound(f"template '{template_id}' has no files '{files_hash}'")
            return StreamingResponse(iter((content[:1000], content[1000:])))

        return app


@dataclass
class Node:
    """One node, its Cubelet behind its wire, and the files it is given."""

    base: Path
    namespace: NetworkNamespace
    cubelet: Service
    client: NodeClient
    desk: FileDesk
    base_build: str

    async def finished(self, request: BuildRequest) -> BuildProgress:
        """Build and return how it ended."""
        await self.client.start_build(request)
        async with asyncio.timeout(_BUILD_LIMIT_S):
            while (progress := await self.client.get_build(request.build_id)).state is BuildState.BUILDING:  # noqa: ASYNC110 - asks
                await asyncio.sleep(0.1)
        return progress

    def request(self, *steps: BuildStep, **changes: Any) -> BuildRequest:
        fields: dict[str, Any] = {
            "template_id": TEMPLATE,
            "build_id": str(uuid4()),
            "from_build": self.base_build,
            "vcpus": 1,
            "memory_mib": 256,
            "writable_layer_mib": DISK_MIB,
            "steps": steps,
        }
        return BuildRequest.model_validate({**fields, **changes})

    async def built(self, *steps: BuildStep, **changes: Any) -> tuple[str, list[str]]:
        """Build, and return the build's id with what its log says to its author."""
        request = self.request(*steps, **changes)
        progress = await self.finished(request)
        messages = [entry.message for entry in progress.logs if entry.level != "debug"]
        assert progress.state is BuildState.READY, (progress.reason, messages)
        return request.build_id, messages

    async def failed(self, *steps: BuildStep, **changes: Any) -> tuple[str | None, str]:
        """Build what cannot be built, and return the step and the reason."""
        progress = await self.finished(self.request(*steps, **changes))
        assert progress.state is BuildState.ERROR
        return progress.step, progress.reason or ""

    @asynccontextmanager
    async def sandbox(self, build_id: str) -> AsyncIterator[GuestClient]:
        """Make a sandbox of a build and yield a client of its agent."""
        new = CreateSandbox(template_id=TEMPLATE, build_id=build_id, end_at=datetime.now(UTC) + timedelta(minutes=5))
        sandbox_id = new_sandbox_id()
        made = await self.client.create_sandbox(sandbox_id, new)
        try:
            with self.namespace.entered():
                guest = GuestClient(IPv4Address(made.address or ""))
                try:
                    yield guest
                finally:
                    await guest.close()
        finally:
            await self.client.delete_sandbox(sandbox_id)

    def left(self) -> dict[str, list[str]]:
        """Return what a build in progress holds, which must be nothing."""
        data = self.base / "data"
        return {
            "records": [path.name for path in (data / "sandboxes").iterdir()],
            "runtime": [path.name for path in (self.base / "vm").iterdir()],
            "workspaces": [path.name for path in (data / "templates").glob(".*")],
            "unfinished cache": [path.name for path in (data / "steps").glob(".*")],
            "vmms": self.vmms(),
        }

    def vmms(self) -> list[str]:
        home = (Path("/run/netns") / self.namespace.name).stat().st_ino
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if "qemu" in str((entry / "exe").readlink()) and (entry / "ns" / "net").stat().st_ino == home:
                    found.append(entry.name)
            except OSError:
                continue
        return found


async def said(guest: GuestClient, command: str, **options: Any) -> str:
    """Run a shell command as E2B's clients do and return what it prints."""
    done: ExecResult = await guest.run(("/bin/bash", "-l", "-c", command), deadline=timedelta(seconds=30), **options)
    assert done.exit_code == 0, done
    return done.stdout.strip()


def step(kind: str, *args: str, **more: Any) -> BuildStep:
    return BuildStep(type=kind, args=args, **more)


def tar_of(files: dict[str, bytes | str], *, mode: str = "w:gz") -> bytes:
    """Return a tar as E2B's clients make it: bytes are files, text is the target of a symbolic link."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]  # a mode of the caller's
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.uid = member.gid = 4321
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size, member.mode = len(content), 0o640
                tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@dataclass(frozen=True)
class Place:
    base: Path
    namespace: NetworkNamespace
    cubelet: Service
    built: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    subprocess.run((ROOT / "guest-image" / "build.py", "all"), check=True, timeout=900)
    guest_dir = shutil.copytree(ROOT / "build" / "guest", tmp_path_factory.mktemp("guest") / "release")
    with ExitStack() as stack:
        # Short: sockets live below, and their paths have at most 107 bytes.
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cube-")))
        base.chmod(0o755)
        namespace = stack.enter_context(network_namespace("builds"))
        bpffs = base / "bpf"
        bpffs.mkdir()
        subprocess.run(("mount", "-t", "bpf", "bpf", str(bpffs)), check=True, timeout=10)
        stack.callback(subprocess.run, ("umount", str(bpffs)), check=True, timeout=10)
        (base / "cubelet.toml").write_text(
            f"""
node_id = "node-1"
socket = "{base}/cubelet.sock"
endpoint = "unix://{base}/cubelet.sock"
master = "unix://{base}/master.sock"
data_dir = "{base}/data"
run_dir = "{base}/vm"
guest_dir = "{guest_dir}"
failpoints = "{base}/failpoint"
[network]
bpffs = "{bpffs}"
[pool]
per_template = 0
"""
        )
        cubelet = Service(
            "cubelet",
            (str(BIN / "cubelet"), "--config", f"{base}/cubelet.toml"),
            namespace,
            base / "cubelet.log",
            ("curl", "-sf", "--unix-socket", f"{base}/cubelet.sock", "http://localhost/health"),
        )
        stack.callback(cubelet.stop)
        cubelet.start()
        yield Place(base, namespace, cubelet)


@pytest.fixture
async def node(place: Place) -> AsyncIterator[Node]:
    """The node, with the image `base` built as an operator does; nothing may be left of any build afterwards."""
    desk = FileDesk()
    async with (
        serve_on(desk.app(), place.base / "master.sock"),
        InternalClient(f"unix://{place.base}/cubelet.sock", service="cubelet") as http,
    ):
        node = Node(place.base, place.namespace, place.cubelet, NodeClient(http), desk, place.built.get("base", ""))
        if not node.base_build:
            image = {"image": BASE_IMAGE, "from_build": None, "steps": None, "template_id": "base"}
            node.base_build, _ = await node.built(**image)
            place.built["base"] = node.base_build
        yield node
        try:
            await eventually(lambda: not any(node.left().values()), seconds=10)
        except TimeoutError:
            raise AssertionError(f"something is left: {node.left()}") from None
