from __future__ import annotations

from tests.integration.cubemaster.conftest import Appliance, eventually


async def test_routes_come_back_after_a_flush(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = {(await appliance.sandbox(team_id)).sandbox_id for _ in range(3)}
    with appliance.redis.client() as redis:
        redis.flushall()

        async def rebuilt() -> bool:
            return set(redis.keys("cube:route:*")) == {f"cube:route:{one}" for one in made}

        await eventually(rebuilt)


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
