"""A whole appliance as plain processes, one for all tests here, and programs of its users beside it."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.appliance import ROOT, Appliance, Service, appliance
from tests.support.netns import NetworkNamespace

IMAGE = f"oci:{ROOT}/build/images/base"
PATIENCE_S = 60.0
"""Enough for anything here on a busy host; nothing is expected to take it."""


class Program:
    """A program of an E2B user that runs while the test does something to the appliance."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, seconds: float = PATIENCE_S) -> str:
        """Return the next line it prints."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"the program printed nothing for {seconds} s") from None
        if line is None:
            raise AssertionError(f"the program ended with {self._process.wait(10)}")
        return line

    def until(self, wanted: str, seconds: float = PATIENCE_S) -> list[str]:
        """Return the lines up to and with the first that contains `wanted`."""
        give_up = time.monotonic() + seconds
        seen: list[str] = []
        while not seen or wanted not in seen[-1]:
            try:
                seen.append(self.line(max(0.1, give_up - time.monotonic())))
            except AssertionError as error:
                raise AssertionError(f"no line with {wanted!r}: {error}; it printed {seen}") from None
        return seen

    def finish(self, seconds: float = PATIENCE_S) -> list[str]:
        """Return the lines that are left once the program has ended by itself, with success."""
        code = self._process.wait(seconds)
        self._reader.join(10)
        rest = [line for line in iter(self._lines.get_nowait, None) if line is not None]
        assert code == 0, "\n".join(rest)
        return rest

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass(frozen=True)
class Ledger:
    """What sandboxes hold, wherever it is. Taps are kept and reused, and are not part of it."""

    records: int
    runtime_dirs: int
    vmms: int
    routes: int
    rows: int
    vcpus_reserved: int
    memory_reserved_mib: int


@dataclass(frozen=True)
class Site:
    """The appliance, a key to it, and its users' programs."""

    appliance: Appliance
    key: str

    @property
    def _inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.appliance.namespace.name)

    def run(self, code: str, *, key: str | None = None, timeout: float = PATIENCE_S) -> str:
        """Run a user's program to its end and return what it prints."""
        return self.appliance.python(textwrap.dedent(code), key or self.key, timeout=timeout)

    def ask(self, code: str, *, key: str | None = None) -> dict[str, object]:
        """Run a user's program and return the JSON object it prints."""
        answer = json.loads(self.run(code, key=key))
        assert isinstance(answer, dict)
        return answer

    @contextmanager
    def program(self, code: str) -> Iterator[Program]:
        """Start a user's program; it is ended with the block if it has not ended by itself."""
        process = subprocess.Popen(
            (*self._inside, sys.executable, "-u", "-c", textwrap.dedent(code)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.appliance.environment(self.key),
        )
        program = Program(process)
        try:
            yield program
        finally:
            program.end()

    def create(self, **options: object) -> str:
        """Create a sandbox through the SDK and return its id."""
        code = f"from e2b import Sandbox\nprint(Sandbox.create('base', **{options!r}).sandbox_id)"
        return self.run(code).strip()

    def curl(self, *arguments: str) -> tuple[int, str]:
        """Return status and body of a request that is made inside the namespace."""
        done = subprocess.run(
            (*self._inside, "curl", "-sS", "-m", "20", "-w", "\n%{http_code}", *arguments),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def info(self, sandbox_id: str) -> dict[str, object]:
        """Return what the operator sees of a sandbox, also of one that has ended."""
        answer = self.appliance.cli("sandbox", "info", sandbox_id)
        assert isinstance(answer, dict)
        return answer

    def vmm_of(self, sandbox_id: str) -> int:
        """Return the pid of the VMM that runs a sandbox."""
        owned = [record for record in self._records() if record["sandbox"] is not None]
        (process,) = [record["process"] for record in owned if record["sandbox"]["sandbox_id"] == sandbox_id]
        return int(process["pid"])

    def _records(self) -> list[dict[str, Any]]:
        found = []
        for path in (self.appliance.base / "data" / "sandboxes").glob("*/record.json"):
            with suppress(FileNotFoundError):
                found.append(json.loads(path.read_text()))
        return found

    def ledger(self) -> Ledger:
        base = self.appliance.base
        (node,) = self.appliance.cli("node", "list")
        with self.appliance.redis.client() as redis:
            routes = len(redis.keys("cube:route:*"))
        return Ledger(
            records=len(list((base / "data" / "sandboxes").iterdir())),
            runtime_dirs=len(list((base / "vm").iterdir())),
            vmms=_vmms(self.appliance.namespace),
            routes=routes,
            rows=len(self.rows()),
            vcpus_reserved=node["vcpus_reserved"],
            memory_reserved_mib=node["memory_reserved_mib"],
        )

    def rows(self) -> list[str]:
        """Return the states of the sandboxes that have not ended, as the database has them; CubeMaster may be down."""
        query = "SELECT state FROM cube_master.sandboxes WHERE state <> 'ended'"
        return [str(state) for (state,) in self.appliance.database.execute(query)]

    def sandboxes_on_disk(self) -> int:
        """Return how many VMs have an owner by Cubelet's records."""
        return sum(1 for record in self._records() if record["sandbox"] is not None)

    def settled(self) -> Ledger:
        """Return the ledger once the pool is full again, with the sandboxes there are."""
        eventually(lambda: [r["stage"] for r in self._records() if r["sandbox"] is None] == ["waiting"])
        return self.ledger()

    def rest(self) -> Ledger:
        """Return the ledger once no sandbox is left and the pool is full again."""
        full = Ledger(records=1, runtime_dirs=1, vmms=1, routes=0, rows=0, vcpus_reserved=0, memory_reserved_mib=0)
        eventually(lambda: self.ledger() == full, says=self.ledger)
        return full


def _vmms(namespace: NetworkNamespace) -> int:
    """Count VMMs by the network namespace they were started in: also those that nothing else remembers."""
    home = (Path("/run/netns") / namespace.name).stat().st_ino
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            count += "qemu" in str((entry / "exe").readlink()) and (entry / "ns" / "net").stat().st_ino == home
        except OSError:
            continue
    return count


def eventually(
    condition: Callable[[], bool], *, seconds: float = PATIENCE_S, says: Callable[[], object] = lambda: ""
) -> None:
    """Return once `condition()` holds; else fail with what `says` says."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds} s: {says()}")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The appliance with the image `base` as its one template and one VM waiting."""
    subprocess.run((ROOT / "guest-image" / "build.py", "all"), check=True, timeout=900)
    # Clones need the agent disk that their template was booted with, whatever is built meanwhile.
    guest_dir = shutil.copytree(ROOT / "build" / "guest", tmp_path_factory.mktemp("guest") / "release")
    with appliance(guest_dir, pool=1) as running:
        key = running.cli("key", "create", "--name", "tests")["key"]
        size = ("--cpu", "1", "--memory", "256M", "--writable-layer-size", "256M")
        running.build_template(IMAGE, "base", *size)
        site = Site(running, key)
        site.rest()
        yield site


@pytest.fixture(autouse=True)
def nothing_left(site: Site) -> Iterator[None]:
    """After each test every sandbox is killed, and then nothing may be left of any."""
    yield
    site.appliance.cli("sandbox", "kill", "--all", "--yes")
    site.rest()


@pytest.fixture
def impatient_master(site: Site) -> Iterator[Service]:
    """CubeMaster gives up creates after seconds, from its next start on; afterwards it is as it was."""
    settings = site.appliance.base / "master.toml"
    usual = settings.read_text()
    settings.write_text(f"{usual}\n[nodes]\ncreate_deadline_s = 3\n")
    try:
        yield site.appliance.master
    finally:
        settings.write_text(usual)
        site.appliance.master.restart()
