"""A whole appliance as plain processes in a network namespace of its own: what systemd and Ansible do, without them.

MariaDB, Redis, CubeMaster, Cubelet with QEMU and eBPF, CubeAPI and nginx are the real ones. Gone with the block.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.cubeproxy import ProxyFiles, render_proxy
from tests.support.mariadb import MariaDb, mariadb
from tests.support.netns import NetworkNamespace, network_namespace
from tests.support.redis_server import RedisServer, redis_server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOMAIN = "cube.test"
_START_LIMIT_S = 60
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
"""Of the programs under test: they are this checkout's, whichever one the virtual environment was installed from."""


@dataclass
class Service:
    """A process of the appliance that a test may stop, kill and start again."""

    name: str
    argv: tuple[str, ...]
    namespace: NetworkNamespace
    log: Path
    ready: tuple[str, ...]
    """Command that exits 0 once the service answers."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ("ip", "netns", "exec", self.namespace.name, *self.argv),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        give_up = time.monotonic() + _START_LIMIT_S
        while subprocess.run(self.ready, capture_output=True, timeout=30, check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)
            self.process = None

    def after_its_death(self, limit_s: float = 30) -> None:
        """Start it again once it has killed itself at a failpoint."""
        assert self.process is not None
        assert self.process.wait(limit_s) == -signal.SIGKILL
        self.process = None
        self.start()

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.stop(how)
        self.start()


@dataclass(frozen=True)
class Appliance:
    base: Path
    namespace: NetworkNamespace
    database: MariaDb
    redis: RedisServer
    master: Service
    cubelet: Service
    api: Service
    proxy: Service
    ca: Path

    def cli(self, *arguments: str, timeout: float = 60) -> Any:
        """Run cubemastercli with --json and return what it prints, decoded."""
        argv = [str(BIN / "cubemastercli"), "--json", "--endpoint", f"unix://{self.base}/master.sock"]
        done = subprocess.run(
            (*argv, *arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env=ENVIRONMENT,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"cubemastercli {arguments} exited {done.returncode}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def environment(self, key: str) -> dict[str, str]:
        """Return what an SDK needs: through the API's address and header-routed sandboxes, since nothing resolves."""
        return {
            **os.environ,
            "E2B_API_KEY": key,
            "E2B_API_URL": "http://127.0.0.1:3000",
            "E2B_SANDBOX_URL": "http://127.0.0.1",
            "SSL_CERT_FILE": str(self.ca),
        }

    def python(self, code: str, key: str, *, timeout: float = 120, environment: Mapping[str, str] | None = None) -> str:
        """Run a program of an E2B user inside the namespace and return what it prints."""
        done = subprocess.run(
            ("ip", "netns", "exec", self.namespace.name, sys.executable, "-c", code),
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.environment(key), **(environment or {})},
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def build_template(self, image: str, name: str, *options: str, timeout: float = 300) -> str:
        """Build a template and return its id once it is READY."""
        started = self.cli("tpl", "create-from-image", "--image", image, "--name", name, *options)
        self.cli("tpl", "watch", "--job-id", started["build_id"], timeout=timeout)
        return str(started["template_id"])


@contextmanager
def appliance(guest_dir: Path, *, pool: int = 2, name: str = "appliance") -> Iterator[Appliance]:
    """Start everything; on leaving, stop it and remove what it made, VMs included. `name` tells several apart."""
    with ExitStack() as stack:
        # Short: sockets live below, and their paths have at most 107 bytes.
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cube-")))
        base.chmod(0o755)
        namespace = stack.enter_context(network_namespace(name))
        stack.enter_context(_bpffs(base / "bpf"))
        database = stack.enter_context(mariadb())
        redis = stack.enter_context(redis_server())
        database.execute("CREATE DATABASE cube_master")
        _write_settings(base, database, redis, guest_dir, pool)
        master = (
            str(BIN / "cube-master"),
            "--config",
            f"{base}/master.toml",
            "--credentials",
            f"{base}/secrets",
        )
        subprocess.run((*master, "migrate"), check=True, timeout=60, cwd=ROOT, env=ENVIRONMENT, capture_output=True)
        proxy_files = render_proxy(
            base / "proxy", DOMAIN, master_socket=base / "master.sock", redis_socket=redis.socket
        )
        services = {
            "master": _service("master", master, namespace, base, _answers_on(base / "master.sock")),
            "cubelet": _service(
                "cubelet",
                (str(BIN / "cubelet"), "--config", f"{base}/cubelet.toml"),
                namespace,
                base,
                _answers_on(base / "cubelet.sock"),
            ),
            "api": _service(
                "api",
                (str(BIN / "cube-api"), "--config", f"{base}/api.toml"),
                namespace,
                base,
                _in(namespace, "curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:3000/health"),
            ),
            "proxy": _proxy_service(proxy_files, namespace, base),
        }
        made = Appliance(base=base, namespace=namespace, database=database, redis=redis, ca=proxy_files.ca, **services)
        stack.callback(_end_vms, base)
        for service in services.values():
            stack.callback(service.stop)
            service.start()
        yield made


def _service(
    name: str, argv: tuple[str, ...], namespace: NetworkNamespace, base: Path, ready: tuple[str, ...]
) -> Service:
    return Service(name, argv, namespace, base / f"{name}.log", ready)


def _proxy_service(files: ProxyFiles, namespace: NetworkNamespace, base: Path) -> Service:
    ready = _in(namespace, "curl", "-s", "-o", "/dev/null", "http://127.0.0.1/")
    return Service("proxy", ("nginx", "-c", str(files.config)), namespace, base / "proxy.log", ready)


def _answers_on(socket: Path) -> tuple[str, ...]:
    return ("curl", "-sf", "--unix-socket", str(socket), "http://localhost/health")


def _in(namespace: NetworkNamespace, *argv: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", namespace.name, *argv)


@contextmanager
def _bpffs(path: Path) -> Iterator[None]:
    path.mkdir()
    subprocess.run(("mount", "-t", "bpf", "bpf", str(path)), check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(("umount", str(path)), check=True, timeout=10)


def _write_settings(base: Path, database: MariaDb, redis: RedisServer, guest_dir: Path, pool: int) -> None:
    (base / "secrets").mkdir(mode=0o700)
    (base / "egress").mkdir(mode=0o750)
    (base / "secrets" / "envd-seed").write_text("5" * 64)
    (base / "secrets" / "secrets-key").write_text("6" * 64)
    (base / "master.toml").write_text(
        f"""
socket = "{base}/master.sock"
data_dir = "{base}/master"
domain = "{DOMAIN}"
failpoints = "{base}/master-failpoint"
[database]
socket = "{database.socket}"
user = "root"
password = false
[redis]
socket = "{redis.socket}"
password = false
"""
    )
    (base / "cubelet.toml").write_text(
        f"""
node_id = "node-1"
socket = "{base}/cubelet.sock"
endpoint = "unix://{base}/cubelet.sock"
master = "unix://{base}/master.sock"
data_dir = "{base}/data"
run_dir = "{base}/vm"
guest_dir = "{guest_dir}"
[network]
bpffs = "{base}/bpf"
egress_rules = "{base}/egress"
[pool]
per_template = {pool}
"""
    )
    (base / "api.toml").write_text(f'master = "unix://{base}/master.sock"\ndomain = "{DOMAIN}"\n')


def _end_vms(base: Path) -> None:
    """End the VMs that records name: they outlive Cubelet on purpose."""
    for path in (base / "data" / "sandboxes").glob("*/record.json"):
        process = json.loads(path.read_text()).get("process")
        if process is None:
            continue
        command = Path(f"/proc/{process['pid']}/cmdline")
        if command.exists() and f"guest={path.parent.name}".encode() in command.read_bytes():
            os.kill(process["pid"], signal.SIGKILL)
