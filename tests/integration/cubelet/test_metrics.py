"""Samples of running guests: asked with their token, kept for a while, and never at the cost of other guests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from appliance.clients.node import NodeClient
from tests.integration.cubelet.conftest import FakeMachineRoom, built, created, until
from tests.support.fake_guests import USAGE


@pytest.fixture
async def node(node: FakeMachineRoom) -> FakeMachineRoom:
    node.reconfigured(sample_interval_s=0.05)
    return node


async def sampled(cubelet: NodeClient, sandbox_id: str, *, at_least: int = 1) -> None:
    async def enough() -> bool:
        return len(await cubelet.get_metrics(sandbox_id, start=None, end=None)) >= at_least

    await until(enough)


async def test_a_running_guest_is_asked_with_its_token(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    before = datetime.now(UTC)
    secured = await created(cubelet, build_id, access_token="secret")
    open_one = await created(cubelet, build_id)
    for sandbox_id in (secured, open_one):
        await sampled(cubelet, sandbox_id, at_least=2)

    first, second, *_ = await cubelet.get_metrics(secured, start=None, end=None)

    assert before <= first.at < second.at
    assert (first.cpu_count, first.cpu_used_pct) == (2, 12.5)
    assert (first.memory_used_bytes, first.memory_total_bytes, first.memory_cache_bytes) == (1000, 4000, 500)
    assert (first.disk_used_bytes, first.disk_total_bytes) == (10, 100)
    assert await cubelet.get_metrics(secured, start=first.at, end=first.at) == [first]
    assert await cubelet.get_metrics(secured, start=None, end=before - timedelta(hours=1)) == []
    assert set(await cubelet.latest_metrics([secured, open_one, "unknown"])) == {secured, open_one}


async def test_a_guest_that_lies_is_not_believed_and_asked_again(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    node.guests.usage = {**USAGE, "mem_used": -5}
    sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")

    async def asked_twice() -> bool:
        return node.guests.asked >= 2

    await until(asked_twice)
    assert await cubelet.latest_metrics([sandbox_id]) == {}
    node.guests.usage = dict(USAGE)
    await sampled(cubelet, sandbox_id)


async def test_after_a_restart_the_token_is_asked_for_and_sampling_goes_on(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")
        assert (await cubelet.get_sandbox(sandbox_id)).sampled
    async with node.cubelet() as cubelet:
        (shown,) = (await cubelet.status()).sandboxes
        assert not shown.sampled
        assert await cubelet.get_metrics(sandbox_id, start=None, end=None) == []

        await cubelet.set_access_token(sandbox_id, "secret")

        assert (await cubelet.get_sandbox(sandbox_id)).sampled
        await sampled(cubelet, sandbox_id)


async def test_an_ended_sandbox_is_forgotten(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")
    await sampled(cubelet, sandbox_id)
    await cubelet.delete_sandbox(sandbox_id)

    async def forgotten() -> bool:
        return await cubelet.latest_metrics([sandbox_id]) == {}

    await until(forgotten)
