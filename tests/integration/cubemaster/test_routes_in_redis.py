from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from redis.asyncio import Redis

from appliance.cubemaster.persistence.database import Database, make_engine
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.route_table import RouteTable
from appliance.cubemaster.services.tokens import SandboxTokens
from tests.integration.cubemaster.conftest import DATABASE, Appliance, eventually
from tests.support.mariadb import MariaDb
from tests.support.redis_server import RedisServer

_R = TypeVar("_R")


async def test_routes_come_back_after_a_flush(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = {(await appliance.sandbox(team_id)).sandbox_id for _ in range(3)}
    with appliance.redis.client() as redis:
        redis.flushall()

        async def rebuilt() -> bool:
            return set(redis.keys("cube:route:*")) == {f"cube:route:{one}" for one in made}

        await eventually(rebuilt)


async def test_a_flush_in_the_middle_of_a_rebuild_does_not_pass_for_a_whole_table(
    db: MariaDb, redis: RedisServer
) -> None:
    class FlushedAtTheSecondLook(Database):
        looks = 0

        async def transact(self, work: Callable[[UnitOfWork], _R]) -> _R:
            found = await super().transact(work)
            self.looks += 1
            if self.looks == 2:
                with redis.client() as client:
                    client.flushall()
            return found

    engine = make_engine(db.url(DATABASE), connections=1)
    database = FlushedAtTheSecondLook(engine, connections=1)
    connection = Redis(unix_socket_path=str(redis.socket))
    table = RouteTable(connection, database, SandboxTokens("seed"))
    with redis.client() as client:
        await table.check()
        assert client.exists("cube:routes-complete") == 0
        await table.check()
        assert client.exists("cube:routes-complete") == 1
        assert client.exists("cube:routes-rebuilding") == 0
    await connection.aclose()
    database.close()
    engine.dispose()


async def test_a_change_is_announced_on_the_channel(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    with appliance.redis.client() as redis, redis.pubsub() as listener:
        listener.subscribe("cube:routes")
        listener.get_message(timeout=5)
        made = await appliance.sandbox(team_id)
        await appliance.master.kill_sandbox(made.sandbox_id)
        messages = [listener.get_message(timeout=5) for _ in range(2)]
    assert {message["data"] for message in messages if message} == {made.sandbox_id}


async def test_without_redis_creates_and_kills_go_on_and_it_catches_up(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    killed = await appliance.sandbox(team_id)
    with appliance.redis.client() as redis:
        keys_before = {str(key): str(redis.get(str(key))) for key in redis.keys("cube:route:*")}
    appliance.redis.stop()
    try:
        made = await appliance.sandbox(team_id)
        assert (await appliance.master.get_route(made.sandbox_id)).node == "cube-1"
        await appliance.master.kill_sandbox(killed.sandbox_id)
    finally:
        appliance.redis.start()
    with appliance.redis.client() as redis:
        # What a Redis with persistence would still have.
        redis.mset({**keys_before, "cube:routes-complete": "1"})

        async def caught_up() -> bool:
            return list(redis.keys("cube:route:*")) == [f"cube:route:{made.sandbox_id}"]

        await eventually(caught_up)
