"""Guest agents without guests: the part of envd's wire that Cubelet speaks, on loopback addresses of their own.

The switch of a test hands out loopback addresses, and behind each of them an agent answers that acknowledges what it
is told. A test may make them refuse, or never answer, which is what Cubelet must survive.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from aiohttp import web

from appliance.domain.network import AGENT_PORT

AGENT_VERSION = "0.6.13"
USAGE = {
    "ts": 1,
    "cpu_count": 2,
    "cpu_used_pct": 12.5,
    "mem_total": 4000,
    "mem_used": 1000,
    "mem_cache": 500,
    "disk_used": 10,
    "disk_total": 100,
}
_END_OF_STREAM = 0x02


def loopback_network() -> IPv4Network:
    """Return a part of 127.0.0.0/8 that no other test process uses at the same time."""
    return IPv4Network((int(IPv4Address("127.64.0.0")) + (os.getpid() % 8192) * 256, 24))


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@dataclass
class FakeGuests:
    """What is behind every address of `network`, and what is to go wrong with it."""

    network: IPv4Network = field(default_factory=loopback_network)
    identities: list[tuple[IPv4Address, dict[str, Any]]] = field(default_factory=list)
    """Every /init that came, in order, with the address it came to."""
    commands: list[str] = field(default_factory=list)
    refuse_init: bool = False
    refuse_owners: bool = False
    """Refuse only an /init that gives the guest to a sandbox; pool members and builds come up."""
    stall_init: bool = False
    held_owners: asyncio.Event | None = None
    """An /init that gives the guest to a sandbox is answered once this is set."""
    waiting_owners: int = 0
    trusted: list[tuple[str, str]] = field(default_factory=list)
    """Sandboxes that were told to trust certificates while they ran, and which."""
    stall_trust: bool = False
    refuse_flush: bool = False
    flushed: list[str] = field(default_factory=list)
    """Sandboxes whose guests were told to write all they have to their disks."""
    released: list[str] = field(default_factory=list)
    """Sandboxes, and keepers by their VM's id, whose guests were told to let go of their volumes."""
    stall_release: bool = False
    content_status: int = 200
    """What the content API answers with."""
    content_gate: asyncio.Event = field(default_factory=_open_gate)
    """Whether it answers now."""
    exit_code: int = 0
    port_status: int = 200
    """What a service in the guest answers with, on the agent's port too."""
    usage: dict[str, Any] = field(default_factory=lambda: dict(USAGE))
    """What agents say they use."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """What agents have in their logs, all the same."""
    log_at_owner: list[dict[str, Any]] | None = None
    """What the log becomes with the next owner, as it is in a guest that was restored."""
    log_epoch: str = "epoch1"
    stall_log: bool = False
    log_asked: int = 0
    asked: int = 0
    """How often they were asked for it."""

    def identities_of(self, sandbox_id: str) -> list[dict[str, Any]]:
        return [body for _, body in self.identities if body["sandboxId"] == sandbox_id]

    @asynccontextmanager
    async def serving(self, *, addresses: int = 12) -> AsyncIterator[FakeGuests]:
        """Answer on the first `addresses` guest addresses of the network."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_post("/init", self._init)
        app.router.add_post("/trust", self._trust)
        app.router.add_post("/flush", self._flush)
        app.router.add_post("/volumes/release", self._release)
        app.router.add_route("*", "/volumes/file", self._content)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/logs", self._logs)
        app.router.add_post("/process.Process/Start", self._start)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            for number in range(addresses):
                await web.TCPSite(runner, str(self.network[2 + number]), AGENT_PORT).start()
            yield self
        finally:
            await runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.port_status)

    async def _init(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.stall_init:
            await asyncio.Event().wait()
        if self.refuse_init or (self.refuse_owners and body["sandboxId"].startswith("i")):
            return web.Response(status=500, text="made to refuse")
        if self.held_owners is not None and body["sandboxId"].startswith("i"):
            self.waiting_owners += 1
            await self.held_owners.wait()
        if self.log_at_owner is not None and body["sandboxId"].startswith("i"):
            self.log, self.log_at_owner = list(self.log_at_owner), None
        assert request.transport is not None
        self.identities.append((IPv4Address(request.transport.get_extra_info("sockname")[0]), body))
        return web.Response(status=204, headers={"X-Envd-Version": AGENT_VERSION})

    async def _trust(self, request: web.Request) -> web.Response:
        if self.stall_trust:
            await asyncio.Event().wait()
        self.trusted.append((self._owner(request), (await request.json())["caBundle"]))
        return web.Response(status=204)

    async def _flush(self, request: web.Request) -> web.Response:
        if self.refuse_flush:
            return web.Response(status=500, text="made to refuse")
        assert request.transport is not None
        address = IPv4Address(request.transport.get_extra_info("sockname")[0])
        # One that was paused is flushed behind whichever tap is free, and still is who it was: the last to be told.
        body = next((body for at, body in reversed(self.identities) if at == address), self.identities[-1][1])
        self.flushed.append(body["sandboxId"])
        return web.json_response({"envVars": body["envVars"]})

    async def _release(self, request: web.Request) -> web.Response:
        if self.stall_release:
            await asyncio.Event().wait()
        self.released.append(self._owner(request))
        return web.Response(status=204)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        """Answer with what was asked, once the test lets it go on."""
        sent = await request.read()
        await self.content_gate.wait()
        by, query = self._owner(request), dict(request.query)
        asked = {"method": request.method, "query": query, "sent": sent.decode(), "by": by}
        return web.json_response(asked, status=self.content_status, content_type="text/html")

    def _owner(self, request: web.Request) -> str:
        assert request.transport is not None
        address = IPv4Address(request.transport.get_extra_info("sockname")[0])
        return next(str(body["sandboxId"]) for at, body in reversed(self.identities) if at == address)

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self._has_token(request):
            return web.json_response({"code": 401, "message": "unauthorized"}, status=401)
        self.asked += 1
        return web.json_response(self.usage, headers={"X-Log-End": f"{self.log_epoch}/{len(self.log)}"})

    async def _logs(self, request: web.Request) -> web.Response:
        if not self._has_token(request):
            return web.json_response({"code": 401, "message": "unauthorized"}, status=401)
        self.log_asked += 1
        if self.stall_log:
            await asyncio.Event().wait()
        after = int(request.query["after"]) if request.query["epoch"] == self.log_epoch else 0
        page = {"epoch": self.log_epoch, "next": len(self.log), "missed": 0, "entries": self.log[after:]}
        return web.json_response(page)

    def _has_token(self, request: web.Request) -> bool:
        assert request.transport is not None
        address = IPv4Address(request.transport.get_extra_info("sockname")[0])
        token = next(body["accessToken"] for at, body in reversed(self.identities) if at == address)
        return token is None or request.headers.get("X-Access-Token") == token

    async def _start(self, request: web.Request) -> web.StreamResponse:
        message = json.loads((await request.read())[5:])
        self.commands.append(" ".join((message["process"]["cmd"], *message["process"]["args"])))
        response = web.StreamResponse()
        await response.prepare(request)
        for event in ({"start": {"pid": 42}}, {"end": {"exitCode": self.exit_code}}):
            await response.write(_enveloped({"event": event}))
        await response.write(_enveloped({}, flags=_END_OF_STREAM))
        return response


def _enveloped(message: dict[str, Any], *, flags: int = 0) -> bytes:
    payload = json.dumps(message).encode()
    return struct.pack(">BI", flags, len(payload)) + payload
