"""A booted guest as a test sees it: its agent over the tap, its console, its end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from appliance.cubevs.base import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC
from appliance.cubevs.taps import open_tap
from appliance.hypervisor.base import Accelerator, BootSource, VmProcess
from appliance.hypervisor.process import ProcessWatch
from appliance.hypervisor.qemu.driver import QemuHypervisor
from appliance.hypervisor.scopes.session import SessionScopes
from tests.support.netns import NetworkNamespace
from tests.support.waiting import eventually

__all__ = ["GUEST_MAC", "BootedGuest", "boot_source", "new_driver", "tap_in"]

AGENT_PORT = 49983
BOOT_DEADLINE_S = 90
_ENVELOPE = struct.Struct(">BI")
_END_STREAM = 2
_ROOT = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}


def boot_source(guest: Path) -> BootSource:
    manifest = json.loads((guest / "manifest.json").read_text())
    return BootSource(guest / "vmlinuz", guest / "initramfs.img", manifest["machine"]["cmdline"])


def new_driver() -> QemuHypervisor:
    return QemuHypervisor(accelerator=Accelerator.TCG, scopes=SessionScopes())


@contextmanager
def tap_in(namespace: NetworkNamespace) -> Iterator[int]:
    """Make the guest's tap, with the gateway's address on this side of it."""
    with namespace.entered():
        tap_fd = open_tap("cubetap1")
    try:
        namespace.ip(f"link set cubetap1 address {GATEWAY_MAC} up")
        namespace.ip(f"address add {GATEWAY_ADDRESS}/30 dev cubetap1")
        yield tap_fd
    finally:
        os.close(tap_fd)


@dataclass(frozen=True)
class BootedGuest:
    driver: QemuHypervisor
    vm: VmProcess
    namespace: NetworkNamespace
    process: ProcessWatch

    @property
    def console(self) -> str:
        path = self.driver.console(self.vm)
        return path.read_text(errors="replace") if path.exists() else ""

    async def answers(self) -> None:
        """Return once the agent says that it is healthy; fail with the console if it does not."""
        try:
            async with asyncio.timeout(BOOT_DEADLINE_S):
                while await asyncio.to_thread(self._health) != 204:  # noqa: ASYNC110 - a guest sets no Event
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"the agent does not answer; the console says:\n{self.console}") from None

    async def died_and_answers(self) -> None:
        """Return once the console tells of an agent's end and another one answers."""
        await eventually(lambda: "the guest agent ended" in self.console)
        await self.answers()

    async def init(self) -> None:
        body = {
            "timestamp": datetime.now(UTC).isoformat(),
            "sandboxId": "sandbox",
            "templateId": "template",
            "hostname": "tiny",
            "machineId": "0" * 32,
            "defaultUser": "root",
            "entropy": base64.b64encode(os.urandom(64)).decode(),
        }
        status, answer = await asyncio.to_thread(self._request, "POST", "/init", json.dumps(body).encode())
        assert status == 204, answer

    async def read_file(self, path: str) -> str:
        status, answer = await asyncio.to_thread(self._request, "GET", f"/files?path={path}&username=root")
        assert status == 200, answer
        return answer.decode()

    async def run(self, *argv: str) -> str:
        """Run a program to its end and return what it wrote to its standard output."""
        message = json.dumps({"process": {"cmd": argv[0], "args": argv[1:], "cwd": "/"}}).encode()
        status, stream = await asyncio.to_thread(
            self._request,
            "POST",
            "/process.Process/Start",
            _ENVELOPE.pack(0, len(message)) + message,
            "application/connect+json",
        )
        assert status == 200, stream
        return _standard_output(stream)

    async def start(self, *argv: str) -> int:
        """Start a program, leave its stream at once and return its pid."""
        return await asyncio.to_thread(self._start, argv)

    async def listed(self) -> dict[int, str]:
        """Return the commands of the running processes by pid."""
        status, answer = await asyncio.to_thread(self._request, "POST", "/process.Process/List", b"{}")
        assert status == 200, answer
        return {entry["pid"]: entry["config"]["cmd"] for entry in json.loads(answer)["processes"]}

    async def end_of(self, pid: int) -> dict[str, object]:
        """Follow a process to its end and return what the stream says of it."""
        message = json.dumps({"process": {"pid": pid}}).encode()
        status, stream = await asyncio.to_thread(
            self._request,
            "POST",
            "/process.Process/Connect",
            _ENVELOPE.pack(0, len(message)) + message,
            "application/connect+json",
        )
        assert status == 200, stream
        ends = [event["end"] for event in _events(stream) if "end" in event]
        assert len(ends) == 1, stream
        end: dict[str, object] = ends[0]
        return end

    def _start(self, argv: Sequence[str]) -> int:
        message = json.dumps({"process": {"cmd": argv[0], "args": argv[1:], "cwd": "/"}}).encode()
        with closing(self._connect(timeout_s=30)) as connection:
            connection.request(
                "POST",
                "/process.Process/Start",
                _ENVELOPE.pack(0, len(message)) + message,
                {"Content-Type": "application/connect+json", **_ROOT},
            )
            response = connection.getresponse()
            _, length = _ENVELOPE.unpack(response.read(_ENVELOPE.size))
            pid: int = json.loads(response.read(length))["event"]["start"]["pid"]
            return pid

    def fetch(self, port: int, path: str) -> bytes | None:
        """Return a file of a server in the guest, or None where nothing listens on the port."""
        try:
            with self.namespace.entered():
                connected = socket.create_connection((str(GUEST_ADDRESS), port), timeout=5)
        except ConnectionRefusedError:
            return None
        with closing(HTTPConnection(str(GUEST_ADDRESS), port)) as connection:
            connection.sock = connected
            try:
                connection.request("GET", path)
                return connection.getresponse().read()
            except ConnectionError:
                return None

    async def ends(self) -> str:
        """Return the console once the machine is gone."""
        async with asyncio.timeout(BOOT_DEADLINE_S):
            await self.driver.wait_exit(self.vm)
        return self.console

    def _health(self) -> int | None:
        with contextlib.suppress(OSError, HTTPException):
            return self._request("GET", "/health", timeout_s=2)[0]
        return None

    def _request(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json", timeout_s: float = 30
    ) -> tuple[int, bytes]:
        with closing(self._connect(timeout_s=timeout_s)) as connection:
            connection.request(method, path, body, {"Content-Type": content_type, **_ROOT})
            response = connection.getresponse()
            return response.status, response.read()

    def _connect(self, *, timeout_s: float) -> HTTPConnection:
        connection = HTTPConnection(str(GUEST_ADDRESS), AGENT_PORT, timeout=timeout_s)
        with self.namespace.entered():
            connection.sock = socket.create_connection((str(GUEST_ADDRESS), AGENT_PORT), timeout_s)
        return connection


def _standard_output(stream: bytes) -> str:
    return b"".join(base64.b64decode(event.get("data", {}).get("stdout", "")) for event in _events(stream)).decode()


def _events(stream: bytes) -> Iterator[dict[str, Any]]:
    while stream:
        flags, length = _ENVELOPE.unpack_from(stream)
        message = json.loads(stream[_ENVELOPE.size : _ENVELOPE.size + length])
        stream = stream[_ENVELOPE.size + length :]
        if flags & _END_STREAM:
            assert "error" not in message, message
            continue
        yield message.get("event", {})
