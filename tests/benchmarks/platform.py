"""A whole appliance as its clients see it: create, run, pause, fork and kill over the real wire."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from appliance.cubelet.runtime import RecordStore, VmRecord
from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.hypervisor.private_memory import PAGE_BYTES, private_memory
from tests.support.appliance import DOMAIN, Appliance

_AGENT_PORT = "49983"
_PATIENCE_S = 120
_LIFETIME_S = 600
_TEMPLATE = "base"


class Way(StrEnum):
    """How a request reaches CubeAPI."""

    PROXY = "proxy"
    """TLS through CubeProxy, as a client elsewhere."""
    API = "api"
    """Plain HTTP to CubeAPI's own port, as a client on the machine."""


@dataclass(frozen=True)
class Created:
    sandbox_id: str
    access_token: str
    ms: float


@dataclass(frozen=True)
class _Done:
    answer: Any
    ms: float


@dataclass
class Outcomes:
    """Of all requests made so far."""

    attempts: int = 0
    errors: list[str] = field(default_factory=list)


class Platform:
    """One appliance with one template. `pooled` is how many restored VMs it keeps waiting; 0: every create clones."""

    def __init__(self, appliance: Appliance, *, image: str, pooled: int) -> None:
        self._appliance = appliance
        self._image = image
        self.pooled = pooled
        self.outcomes = Outcomes()
        self._sessions: dict[Way, aiohttp.ClientSession] = {}
        self._node: aiohttp.ClientSession | None = None

    def build_template(self) -> None:
        """Make the template, with what `cubemastercli` gives where nothing is asked for."""
        self._appliance.build_template(f"oci:{self._image}", _TEMPLATE)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold keep-alive connections for the block, as an SDK's client object does."""
        key = self._appliance.cli("key", "create")["key"]
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        trust = ssl.create_default_context(cafile=str(self._appliance.ca))
        node = aiohttp.UnixConnector(str(self._appliance.base / "cubelet.sock"))
        headers = {"X-API-Key": key}
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust, keepalive_timeout=600), headers=headers, timeout=timeout
            ) as proxy,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=600), headers=headers, timeout=timeout
            ) as api,
            aiohttp.ClientSession(connector=node, timeout=timeout) as self._node,
        ):
            self._sessions = {Way.PROXY: proxy, Way.API: api}
            yield

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Be where the appliance's addresses are; connections that the block makes are made there."""
        with self._appliance.namespace.entered():
            yield

    async def node(self) -> dict[str, Any]:
        """Return Cubelet's own word on its state."""
        assert self._node is not None
        async with self._node.get("http://localhost/v1/node") as response:
            status: dict[str, Any] = await response.json()
            return status

    def template(self) -> ReadyTemplate:
        """Return the template's files, which the floors are measured with too."""
        data = self._appliance.base / "data"
        store = TemplateStore(data / "templates", data / "layers")
        store.load()
        (template,) = store.all()
        return template

    async def filled(self) -> None:
        """Return once the pool is full."""
        async with asyncio.timeout(_PATIENCE_S):
            # Nothing tells a stranger of the pool, so ask.
            while sum(replica["pooled"] for replica in (await self.node())["replicas"]) < self.pooled:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def create(self, way: Way, template: str = _TEMPLATE) -> Created | None:
        """Return a sandbox and how long it took to get; None where that failed, which is counted."""
        body = {"templateID": template, "timeout": _LIFETIME_S}
        made = await self._timed(way, "/v2/sandboxes", body, expected=201)
        return _created(made.answer, made.ms) if made is not None else None

    async def fork(self, way: Way, source: Created) -> Created | None:
        """Return a copy of a running sandbox and how long it took to get; None where that failed."""
        made = await self._timed(way, f"/sandboxes/{source.sandbox_id}/fork", {"timeout": _LIFETIME_S}, expected=201)
        if made is None:
            return None
        (copy,) = made.answer
        if "sandbox" not in copy:
            self.outcomes.errors.append(f"fork: {copy}")
            return None
        return _created(copy["sandbox"], made.ms)

    async def snapshot(self, source: Created) -> str | None:
        """Return the name under which sandboxes like this one start from now on; None where that failed."""
        made = await self._timed(Way.API, f"/sandboxes/{source.sandbox_id}/snapshots", {}, expected=201)
        return str(made.answer["snapshotID"]) if made is not None else None

    async def delete_snapshot(self, name: str) -> None:
        async with self._request("DELETE", Way.API, f"/templates/{name}") as response:
            if response.status not in (200, 204):
                self.outcomes.errors.append(f"delete of a snapshot: {response.status}")

    async def pause(self, way: Way, sandbox: Created) -> float | None:
        """Return the ms that it took; None where it failed."""
        done = await self._timed(way, f"/sandboxes/{sandbox.sandbox_id}/pause", {}, expected=204)
        return done.ms if done is not None else None

    async def resume(self, way: Way, sandbox: Created) -> float | None:
        """Return the ms that it took; None where it failed."""
        body = {"timeout": _LIFETIME_S}
        done = await self._timed(way, f"/sandboxes/{sandbox.sandbox_id}/resume", body, expected=201)
        return done.ms if done is not None else None

    def changed_mib(self, sandbox: Created) -> float:
        """Return what a running sandbox has changed of its template's RAM, and has on its disk."""
        record = self._record(sandbox)
        assert record.process is not None
        assert record.meta is not None
        memory_file = self._appliance.base / "data" / "templates" / record.meta.memory_build_id / "memory"
        with private_memory(record.process.pid, memory_file) as memory:
            pages = sum(run.count for run in memory.changed())
        return pages * PAGE_BYTES / 2**20 + _taken_mib(self._records.upper(record.vm_id))

    def kept_mib(self, sandbox: Created) -> float:
        """Return the disk space that a paused sandbox takes. One that still has a VMM is an error."""
        record = self._record(sandbox)
        if record.process is not None or list((self._appliance.base / "vm").glob(record.vm_id)):
            self.outcomes.errors.append(f"paused, {sandbox.sandbox_id} has a VMM")
        return sum(_taken_mib(path) for path in self._records.directory(record.vm_id).rglob("*") if path.is_file())

    @property
    def _records(self) -> RecordStore:
        return RecordStore(self._appliance.base / "data" / "sandboxes")

    def _record(self, sandbox: Created) -> VmRecord:
        (record,) = (
            one
            for one in self._records.load().records
            if one.sandbox is not None and one.sandbox.sandbox_id == sandbox.sandbox_id
        )
        return record

    async def origins(self) -> dict[str, bool]:
        """Return for each living sandbox whether it came from the pool."""
        return {one["sandbox_id"]: one["pooled"] for one in (await self.node())["sandboxes"]}

    async def kill(self, sandboxes: Sequence[Created]) -> None:
        for sandbox in sandboxes:
            async with self._request("DELETE", Way.API, f"/sandboxes/{sandbox.sandbox_id}") as response:
                if response.status != 204:
                    self.outcomes.errors.append(f"kill: {response.status}")

    async def run_true(self, sandbox: Created) -> float:
        """Run the SDKs' kind of command through CubeProxy, to its end, and return ms."""
        message = json.dumps({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "true"]}, "stdin": False}).encode()
        headers = {
            "E2b-Sandbox-Id": sandbox.sandbox_id,
            "E2b-Sandbox-Port": _AGENT_PORT,
            "X-Access-Token": sandbox.access_token,
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
        }
        begun = time.perf_counter()
        async with self._sessions[Way.API].post(
            "http://127.0.0.1/process.Process/Start",
            data=struct.pack(">BI", 0, len(message)) + message,
            headers=headers,
        ) as response:
            stream = await response.read()
        ms = (time.perf_counter() - begun) * 1000
        if response.status != 200 or b'"exited":true' not in stream.replace(b" ", b""):
            self.outcomes.errors.append(f"exec: {response.status} {stream[:300]!r}")
        return ms

    async def _timed(self, way: Way, path: str, body: object, *, expected: int) -> _Done | None:
        """Return the answer to a POST and how long it took; None where it is not the expected one, which is counted."""
        self.outcomes.attempts += 1
        begun = time.perf_counter()
        try:
            async with self._request("POST", way, path, body) as response:
                payload = await response.read()
                ms = (time.perf_counter() - begun) * 1000
                if response.status != expected:
                    raise ValueError(f"{response.status} {payload[:300]!r}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.outcomes.errors.append(f"POST {path} through {way}: {error!r}")
            return None
        return _Done(json.loads(payload) if payload else None, ms)

    def _request(self, method: str, way: Way, path: str, body: object = None) -> Any:
        session = self._sessions[way]
        if way is Way.API:
            return session.request(method, f"http://127.0.0.1:3000{path}", json=body)
        # No name resolves inside the namespace: the address is dialled and the name is presented.
        api = f"api.{DOMAIN}"
        return session.request(
            method, URL("https://127.0.0.1").with_path(path), json=body, headers={"Host": api}, server_hostname=api
        )


def _created(answer: dict[str, str], ms: float) -> Created:
    return Created(answer["sandboxID"], answer["envdAccessToken"], ms)


def _taken_mib(path: Path) -> float:
    return path.stat().st_blocks * 512 / 2**20
