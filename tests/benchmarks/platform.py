"""A whole appliance as its clients see it: create, run, kill over the real wire."""

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
from typing import Any

import aiohttp
from yarl import URL

from appliance.cubelet.services.template_store import ReadyTemplate, TemplateStore
from appliance.domain.ids import BuildId
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
        self._build_id = ""

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
        self._build_id = BuildId(template.build_id)
        return template

    async def filled(self) -> None:
        """Return once the pool is full."""
        async with asyncio.timeout(_PATIENCE_S):
            # Nothing tells a stranger of the pool, so ask.
            while sum(replica["pooled"] for replica in (await self.node())["replicas"]) < self.pooled:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def create(self, way: Way) -> Created | None:
        """Return a sandbox and how long it took to get; None where that failed, which is counted."""
        self.outcomes.attempts += 1
        body = {"templateID": _TEMPLATE, "timeout": _LIFETIME_S}
        begun = time.perf_counter()
        try:
            async with self._request("POST", way, "/v2/sandboxes", body) as response:
                payload = await response.read()
                ms = (time.perf_counter() - begun) * 1000
                if response.status != 201:
                    raise ValueError(f"{response.status} {payload[:300]!r}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.outcomes.errors.append(f"create through {way}: {error!r}")
            return None
        answer = json.loads(payload)
        return Created(answer["sandboxID"], answer["envdAccessToken"], ms)

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

    def _request(self, method: str, way: Way, path: str, body: object = None) -> Any:
        session = self._sessions[way]
        if way is Way.API:
            return session.request(method, f"http://127.0.0.1:3000{path}", json=body)
        # No name resolves inside the namespace: the address is dialled and the name is presented.
        api = f"api.{DOMAIN}"
        return session.request(
            method, URL("https://127.0.0.1").with_path(path), json=body, headers={"Host": api}, server_hostname=api
        )
