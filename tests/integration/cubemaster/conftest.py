"""CubeMaster on a real MariaDB and a real Redis, called through its socket; the node is a fake behind the real wire."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI

from appliance.clients.master import MasterClient
from appliance.common.http import InternalClient
from appliance.contracts.master import NewKey, NewSandbox, SandboxView
from appliance.contracts.node import BuildState
from appliance.contracts.templates import BuildStatus, NewTemplate
from appliance.cubeapi.app import create_app as create_api
from appliance.cubeapi.settings import CubeApiSettings
from appliance.cubemaster.app import Secrets, create_app
from appliance.cubemaster.persistence.database import make_engine
from appliance.cubemaster.persistence.schema import migrate
from appliance.cubemaster.persistence.tables import metadata
from appliance.cubemaster.settings import (
    BuildSettings,
    CubeMasterSettings,
    DatabaseSettings,
    FileSettings,
    NodeSettings,
    RedisSettings,
)
from tests.support.fake_builder import FakeBuilder
from tests.support.fake_node import FakeNode, serve_on, serve_on_loopback
from tests.support.mariadb import MariaDb, mariadb
from tests.support.redis_server import RedisServer, redis_server

DATABASE = "cube_master"
ADMIN_TOKEN = "a" * 64
MAX_DRAFTS = 20


class RunProgram(Protocol):
    async def __call__(self, *argv: str | Path, cwd: Path) -> dict[str, Any]: ...


async def eventually(holds: Callable[[], Awaitable[bool]], *, within_s: float = 10) -> None:
    """Wait until `holds()` answers true, or fail."""
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def server() -> Iterator[MariaDb]:
    with mariadb() as running:
        running.execute(f"CREATE DATABASE {DATABASE}")
        engine = make_engine(running.url(DATABASE), connections=1)
        migrate(engine)
        engine.dispose()
        yield running


@pytest.fixture
def db(server: MariaDb) -> MariaDb:
    """The migrated database, empty."""
    tables = [f"DELETE FROM {table.name}" for table in metadata.sorted_tables]
    server.execute("SET foreign_key_checks = 0", *tables, database=DATABASE)
    return server


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(redis_process: RedisServer) -> RedisServer:
    with redis_process.client() as client:
        client.flushall()
    return redis_process


@pytest.fixture
def run_dir() -> Iterator[Path]:
    # Not pytest's tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cube-") as name:
        yield Path(name)


@dataclass
class Appliance:
    """A running CubeMaster, a client of it, and its node."""

    master: MasterClient
    node: FakeNode
    settings: CubeMasterSettings
    db: MariaDb
    redis: RedisServer

    async def beat(self) -> None:
        await self.master.heartbeat(self.node.status())

    async def team(self, slug: str = "default") -> str:
        created = await self.master.create_key(NewKey(team=slug, name="test"))
        resolved = await self.master.resolve_key(hashlib.sha256(created.key.encode()).hexdigest())
        return resolved.team_id

    async def template(self, alias: str = "base", *, team: str = "default", public: bool = False) -> str:
        """Return the id of a template that is ready on the node."""
        new = NewTemplate(team=team, image="oci:/images/base", alias=alias, vcpus=1, memory_mib=512, public=public)
        build = await self.master.create_template(new)

        async def on_node() -> bool:
            return build.build_id in self.node.builds

        await eventually(on_node)
        self.node.finish_build(build.build_id, BuildState.READY)

        async def ready() -> bool:
            return (await self.master.get_build(build.build_id)).status is BuildStatus.READY

        await eventually(ready)
        return build.template_id

    async def sandbox(self, team_id: str, **fields: object) -> SandboxView:
        wanted = {"team_id": team_id, "template": "base", "timeout_s": 300} | fields
        return await self.master.create_sandbox(NewSandbox.model_validate(wanted))

    async def reserved(self) -> tuple[int, int]:
        (node,) = await self.master.list_nodes()
        return node.vcpus_reserved, node.memory_reserved_mib


@pytest.fixture
def lost_after_s() -> float:
    """Long: most tests send no heartbeats while they run. The one about silence overrides it."""
    return 3600


@pytest.fixture
def create_deadline_s() -> float:
    return 30


@pytest.fixture
def settings(
    db: MariaDb, redis: RedisServer, run_dir: Path, lost_after_s: float, create_deadline_s: float
) -> CubeMasterSettings:
    return CubeMasterSettings(
        socket=run_dir / "master",
        data_dir=run_dir / "data",
        database=DatabaseSettings(socket=db.socket, name=DATABASE, user=db.user, password=False, connections=4),
        redis=RedisSettings(socket=redis.socket, password=False),
        nodes=NodeSettings(
            lost_after_s=lost_after_s,
            missing_grace_s=0.3,
            call_deadline_s=10,
            create_deadline_s=create_deadline_s,
            save_deadline_s=create_deadline_s,
        ),
        builds=BuildSettings(poll_interval_s=0.05, tidy_interval_s=0.2, max_drafts=MAX_DRAFTS),
        files=FileSettings(max_bytes=8 * 2**20, team_max_bytes=12 * 2**20, reserve_bytes=0, idle_s=2),
        route_check_interval_s=0.1,
    )


@pytest.fixture
async def appliance(
    settings: CubeMasterSettings, db: MariaDb, redis: RedisServer, run_dir: Path
) -> AsyncIterator[Appliance]:
    """CubeMaster with one registered node."""
    app = create_app(
        settings, Secrets(envd_seed="seed", secrets_key="6" * 64, mysql_password=None, redis_password=None)
    )
    node = FakeNode(run_dir / "node")
    async with (
        node.serving(),
        serve_on(app, settings.socket),
        InternalClient(f"unix://{settings.socket}", service="cube-master") as http,
    ):
        running = Appliance(MasterClient(http), node, settings, db, redis)
        await running.beat()
        yield running


@pytest.fixture
async def api_app(appliance: Appliance) -> FastAPI:
    """CubeAPI over this CubeMaster; nothing serves it yet."""
    return create_api(
        CubeApiSettings(master=f"unix://{appliance.settings.socket}", key_cache_s=0), admin_token=ADMIN_TOKEN
    )


@pytest.fixture
async def key(appliance: Appliance) -> str:
    """A key of the team `default`."""
    return (await appliance.master.create_key(NewKey(name="test"))).key


@pytest.fixture
async def api(api_app: FastAPI, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """CubeAPI, called with that key."""
    transport = httpx.ASGITransport(app=api_app)
    async with (
        api_app.router.lifespan_context(api_app),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers={"X-API-Key": key}) as http,
    ):
        yield http


@pytest.fixture
async def api_url(api_app: FastAPI) -> AsyncIterator[str]:
    """CubeAPI on a port of its own."""
    async with serve_on_loopback(api_app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def others(appliance: Appliance) -> dict[str, str]:
    """Headers of a caller from another team."""
    return {"X-API-Key": (await appliance.master.create_key(NewKey(team="other", name="test"))).key}


@pytest.fixture
async def builder(appliance: Appliance) -> FakeBuilder:
    """The node finishes builds by itself, and has the template `base`."""
    await appliance.template("base", public=True)
    builder = FakeBuilder(appliance.node, appliance.settings.socket)
    appliance.node.builder = builder.build
    return builder


@pytest.fixture
def run_program(api_url: str, key: str) -> RunProgram:
    """Run a user's program in a directory, and return the JSON object it prints."""

    async def run(*argv: str | Path, cwd: Path) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env={**os.environ, "E2B_API_KEY": key, "E2B_API_URL": api_url, "E2B_VOLUME_API_URL": api_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return answer

    return run
