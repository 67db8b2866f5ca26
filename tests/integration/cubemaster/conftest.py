"""CubeMaster on a real MariaDB and a real Redis, called through its socket; the node is a fake behind the real wire."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from appliance.clients.master import MasterClient
from appliance.common.http import InternalClient
from appliance.contracts.master import BuildStatus, NewKey, NewSandbox, NewTemplate, SandboxView
from appliance.contracts.node import BuildState
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
    NodeSettings,
    RedisSettings,
)
from tests.support.fake_node import FakeNode, serve_on
from tests.support.mariadb import MariaDb, mariadb
from tests.support.redis_server import RedisServer, redis_server

DATABASE = "cube_master"
ADMIN_TOKEN = "a" * 64


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
        database=DatabaseSettings(socket=db.socket, name=DATABASE, user=db.user, password=False, connections=4),
        redis=RedisSettings(socket=redis.socket, password=False),
        nodes=NodeSettings(
            lost_after_s=lost_after_s, missing_grace_s=0.3, call_deadline_s=10, create_deadline_s=create_deadline_s
        ),
        builds=BuildSettings(poll_interval_s=0.05),
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
async def api(appliance: Appliance) -> AsyncIterator[httpx.AsyncClient]:
    """CubeAPI over this CubeMaster, called with a key of the team `default`."""
    app = create_api(
        CubeApiSettings(master=f"unix://{appliance.settings.socket}", key_cache_s=0), admin_token=ADMIN_TOKEN
    )
    key = (await appliance.master.create_key(NewKey(name="test"))).key
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers={"X-API-Key": key}) as http,
    ):
        yield http


@pytest.fixture
async def others(appliance: Appliance) -> dict[str, str]:
    """Headers of a caller from another team."""
    return {"X-API-Key": (await appliance.master.create_key(NewKey(team="other", name="test"))).key}
