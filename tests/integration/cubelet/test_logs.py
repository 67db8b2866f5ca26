"""Logs of running guests: collected with their samples, once more before the end, and kept after it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.clients.node import NodeClient
from appliance.contracts.node import SandboxLogEntry
from tests.integration.cubelet.conftest import FakeMachineRoom, built, created, until


@pytest.fixture
async def node(node: FakeMachineRoom) -> FakeMachineRoom:
    node.reconfigured(sample_interval_s=0.05)
    return node


def said(message: str, *, at: datetime | None = None, level: str = "info") -> dict[str, Any]:
    at_ns = int((at or datetime.now(UTC)).timestamp() * 1e9)
    return {"at_ns": at_ns, "level": level, "logger": "process", "message": message, "fields": {"pid": "7"}}


async def logs(cubelet: NodeClient, sandbox_id: str, **query: Any) -> list[SandboxLogEntry]:
    asked = {"at": None, "backward": False, "limit": 1000, "level": None, "search": None, **query}
    return await cubelet.get_logs(sandbox_id, **asked)


async def collected(cubelet: NodeClient, sandbox_id: str, message: str) -> None:
    async def there() -> bool:
        return message in [entry.message for entry in await logs(cubelet, sandbox_id)]

    await until(there)


async def test_what_guests_say_is_collected_once_and_can_be_searched(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")
    node.guests.log += [said("one", level="debug"), said("two")]
    await collected(cubelet, sandbox_id, "two")
    node.guests.log.append(said("three", level="error"))
    await collected(cubelet, sandbox_id, "three")

    entries = await logs(cubelet, sandbox_id)
    assert [entry.message for entry in entries] == ["one", "two", "three"]
    asked, sampled = node.guests.log_asked, node.guests.asked

    async def sampled_again() -> bool:
        return node.guests.asked > sampled + 3

    await until(sampled_again)
    assert node.guests.log_asked == asked, "a guest that has nothing new is not asked for it"
    assert (entries[0].logger, entries[0].fields) == ("process", {"pid": "7"})
    assert [one.message for one in await logs(cubelet, sandbox_id, backward=True, limit=2)] == ["three", "two"]
    assert [one.message for one in await logs(cubelet, sandbox_id, level="warn")] == ["three"]
    assert [one.message for one in await logs(cubelet, sandbox_id, search="w")] == ["two"]
    later = entries[2].timestamp
    assert [one.message for one in await logs(cubelet, sandbox_id, at=later)] == ["three"]


async def test_a_guest_may_not_say_when_it_was(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    before = datetime.now(UTC)
    sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")
    for at in (timedelta(days=3000), -timedelta(days=3000)):
        node.guests.log.append(said(f"{at.days}", at=before + at))
    await collected(cubelet, sandbox_id, "-3000")
    first, second = await logs(cubelet, sandbox_id)
    assert before <= first.timestamp <= second.timestamp <= datetime.now(UTC)


async def test_last_words_are_heard_and_the_log_outlives_the_sandbox(node: FakeMachineRoom) -> None:
    node.reconfigured(sample_interval_s=60)
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        killed = await created(cubelet, build_id, access_token="secret")
        timed_out = await created(cubelet, build_id, access_token="secret")
        node.guests.log.append(said("last words"))
        await cubelet.delete_sandbox(killed)
        await cubelet.set_deadline(timed_out, datetime.now(UTC))
        for sandbox_id in (killed, timed_out):
            await collected(cubelet, sandbox_id, "last words")
    async with node.cubelet() as cubelet:
        assert [entry.message for entry in await logs(cubelet, killed)] == ["last words"]


async def test_a_guest_that_does_not_tell_its_log_delays_its_end_but_little_and_is_still_sampled(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    node.guests.stall_log = True
    sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")

    async def asked() -> bool:
        return node.guests.log_asked > 0

    await until(asked)
    begun = time.monotonic()
    await cubelet.delete_sandbox(sandbox_id)
    assert time.monotonic() - begun < 5
    assert await cubelet.list_sandboxes() == []


async def test_a_guest_that_lies_about_its_log_is_left_alone_for_a_while(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    node.guests.log.append({"at_ns": "yesterday"})
    sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")

    async def sampled_often() -> bool:
        return len(await cubelet.get_metrics(sandbox_id, start=None, end=None)) >= 8

    await until(sampled_often)
    assert 1 <= node.guests.log_asked < 6
    assert await logs(cubelet, sandbox_id) == []


async def test_after_a_restart_collecting_goes_on_where_it_was(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        sandbox_id = await created(cubelet, await built(cubelet), access_token="secret")
        node.guests.log.append(said("before"))
        await collected(cubelet, sandbox_id, "before")
    node.guests.log.append(said("meanwhile"))
    async with node.cubelet() as cubelet:
        await cubelet.set_access_token(sandbox_id, "secret")
        await collected(cubelet, sandbox_id, "meanwhile")
        assert [entry.message for entry in await logs(cubelet, sandbox_id)] == ["before", "meanwhile"]
