"""A Cubelet as it runs on a node - QEMU guests, eBPF, its own process - without the services around it.

It lives in a network namespace of its own, and may be killed at a failpoint and started again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from appliance.clients.guest import GuestClient
from appliance.clients.node import NodeClient
from appliance.common.http import InternalClient
from appliance.contracts.node import BuildRequest, BuildState, CreateSandbox, EndReason, Resume
from appliance.cubelet.ended import EndedStore
from appliance.domain.ids import SandboxId, new_sandbox_id
from tests.support.appliance import ROOT, Service, _answers_on, _bpffs, _end_vms
from tests.support.netns import NetworkNamespace, network_namespace
from tests.support.waiting import eventually

T = TypeVar("T")
IMAGE = f"oci:{ROOT}/build/images/base"
TOKEN = "a-token"
TEMPLATE = "base"
_PATIENCE = timedelta(seconds=60)


@dataclass
class RealNode:
    base: Path
    namespace: NetworkNamespace
    service: Service
    build_id: str = ""

    @asynccontextmanager
    async def calls(self) -> AsyncIterator[NodeClient]:
        async with InternalClient(f"unix://{self.base}/cubelet.sock", service="cubelet") as http:
            yield NodeClient(http, deadline=timedelta(seconds=60), create_deadline=timedelta(seconds=120))

    async def build(self, node: NodeClient) -> None:
        self.build_id = str(uuid4())
        request = BuildRequest(
            template_id=TEMPLATE,
            build_id=self.build_id,
            image=IMAGE,
            vcpus=1,
            memory_mib=512,
            writable_layer_mib=512,
            start_cmd="touch /tmp/started-$$; sleep infinity",
        )
        await node.start_build(request)
        async with asyncio.timeout(300):
            while (progress := await node.get_build(self.build_id)).state is BuildState.BUILDING:  # noqa: ASYNC110 - asks
                await asyncio.sleep(0.5)
        assert progress.state is BuildState.READY, progress.reason

    async def create(self, node: NodeClient, **changes: Any) -> SandboxId:
        sandbox_id = new_sandbox_id()
        fields = {
            "template_id": TEMPLATE,
            "build_id": self.build_id,
            "end_at": datetime.now(UTC) + timedelta(hours=1),
            "access_token": TOKEN,
        }
        await node.create_sandbox(sandbox_id, CreateSandbox.model_validate({**fields, **changes}))
        return sandbox_id

    async def sh(self, node: NodeClient, sandbox_id: str, command: str) -> str:
        """Run a shell command in a sandbox, as its owner would, and return what it prints."""
        address = (await node.get_sandbox(sandbox_id)).address
        assert address is not None
        guest = GuestClient(IPv4Address(address))
        try:
            done = await guest.run(
                ("/bin/bash", "-l", "-c", command), deadline=_PATIENCE, access_token=TOKEN, user="root"
            )
        finally:
            await guest.close()
        assert done.exit_code == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    async def start(self, node: NodeClient, sandbox_id: str, command: str) -> None:
        """Start a shell command in a sandbox that goes on by itself."""
        await self.sh(node, sandbox_id, f"nohup setsid bash -c {command!r} >/dev/null 2>&1 & disown")

    def files(self) -> set[str]:
        """Return the files of all sandboxes and templates, by their place."""
        data = self.base / "data"
        return {
            str(path.relative_to(data))
            for name in ("sandboxes", "templates")
            for path in (data / name).rglob("*")
            if path.is_file()
        }

    def blocks_mib(self, sandbox_dir: Path) -> float:
        """Return the disk space that is taken below a directory, a file with several names counted once."""
        found = {(s := path.stat()).st_ino: s.st_blocks for path in sandbox_dir.rglob("*") if path.is_file()}
        return sum(found.values()) * 512 / 2**20

    def vmms(self) -> int:
        """Return how many VMMs of this node run, whoever knows of them."""
        return len(self.vmm_pids())

    def vmm_pids(self) -> list[int]:
        names = {f"guest={path.name}".encode() for path in (self.base / "data" / "sandboxes").iterdir()}
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            if names.intersection(arguments) and b"qemu" in arguments[0]:
                found.append(int(entry.parent.name))
        return found

    def open_files(self) -> int:
        """Return how many descriptors Cubelet has open."""
        process = self.service.process
        assert process is not None
        return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))

    def ended(self) -> dict[str, EndReason]:
        """Return the sandboxes that ended by themselves, and why. No CubeMaster takes that from the node."""
        return {one.sandbox_id: one.reason for one in EndedStore(self.base / "data" / "ended").pending()}

    def arm(self, point: str) -> None:
        (self.base / "failpoint").write_text(f"{point} kill")

    @asynccontextmanager
    async def held_at(self, point: str, call: Awaitable[T]) -> AsyncIterator[asyncio.Future[T]]:
        """Make a call, and let Cubelet stand still at `point` for the block. Yields what the call will return."""
        failpoint = self.base / "failpoint"
        failpoint.write_text(f"{point} hold")
        calling = asyncio.ensure_future(call)
        try:
            await eventually(lambda: calling.done() or not failpoint.exists(), seconds=60)
            assert not failpoint.exists(), f"{point} was not reached"
            yield calling
        finally:
            failpoint.touch()
        await eventually(lambda: not failpoint.exists())

    async def kill_vmms(self) -> None:
        """Kill every VMM of this node, and return once they are gone."""
        pids = self.vmm_pids()
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not self.vmm_pids())

    def after_its_death(self, limit_s: float = 30) -> None:
        """Start Cubelet again once it has killed itself."""
        self.service.after_its_death(limit_s)


def again(**changes: Any) -> Resume:
    fields = {"end_at": datetime.now(UTC) + timedelta(hours=1), "access_token": TOKEN}
    return Resume.model_validate({**fields, **changes})


@contextmanager
def real_node(name: str) -> Iterator[RealNode]:
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cube-")))
        base.chmod(0o755)
        namespace = stack.enter_context(network_namespace(name))
        stack.enter_context(_bpffs(base / "bpf"))
        (base / "cubelet.toml").write_text(
            f"""
node_id = "node-1"
socket = "{base}/cubelet.sock"
endpoint = "unix://{base}/cubelet.sock"
master = "unix://{base}/master.sock"
data_dir = "{base}/data"
run_dir = "{base}/vm"
guest_dir = "{ROOT}/build/guest"
failpoints = "{base}/failpoint"
sample_interval_s = 3600
[network]
bpffs = "{base}/bpf"
[pool]
per_template = 0
[deadlines]
restore_s = 60
init_s = 60
"""
        )
        service = Service(
            "cubelet",
            (str(Path(sys.executable).parent / "cubelet"), "--config", f"{base}/cubelet.toml"),
            namespace,
            base / "cubelet.log",
            _answers_on(base / "cubelet.sock"),
        )
        stack.callback(_end_vms, base)
        stack.callback(service.stop)
        service.start()
        try:
            yield RealNode(base, namespace, service)
        except BaseException:
            print((base / "cubelet.log").read_text()[-6000:])
            raise
