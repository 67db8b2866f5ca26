"""A Cubelet as it runs on a node - QEMU guests, eBPF, its own process - without the services around it.

It lives in a network namespace of its own, and may be killed at a failpoint and started again.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import uuid4

from appliance.clients.guest import GuestClient
from appliance.clients.node import NodeClient
from appliance.common.http import InternalClient
from appliance.contracts.node import BuildRequest, BuildState, CreateSandbox, Resume
from appliance.domain.ids import SandboxId, new_sandbox_id
from tests.support.appliance import ROOT, Service, _answers_on, _bpffs, _end_vms
from tests.support.netns import NetworkNamespace, network_namespace

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
        names = {f"guest={path.name}".encode() for path in (self.base / "data" / "sandboxes").iterdir()}
        found = 0
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            found += bool(names.intersection(arguments)) and b"qemu" in arguments[0]
        return found

    def open_files(self) -> int:
        """Return how many descriptors Cubelet has open."""
        process = self.service.process
        assert process is not None
        return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))

    def arm(self, point: str) -> None:
        (self.base / "failpoint").write_text(f"{point} kill")

    def after_its_death(self, limit_s: float = 30) -> None:
        """Start Cubelet again once it has killed itself."""
        process = self.service.process
        assert process is not None
        assert process.wait(limit_s) == -9
        self.service.process = None
        self.service.start()


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
