"""The life of sandboxes on one node: made whole or not at all, ended once, freed completely."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from appliance.clients.node import NodeClient
from appliance.domain.errors import (
    Conflict,
    CubeError,
    GuestFailure,
    SandboxNotFound,
    StorageFailure,
    TemplateNotReady,
    VmmFailure,
)
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubelet.conftest import TEMPLATE, FakeMachineRoom, built, created, wanted
from tests.support.waiting import eventually


async def test_create_gives_the_guest_its_identity_before_it_answers(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id = await built(cubelet)
    sandbox_id = await created(cubelet, build_id, env_vars={"A": "1", "LANG": "de"}, access_token="secret")
    (identity,) = node.guests.identities_of(sandbox_id)
    assert identity["accessToken"] == "secret"
    assert identity["envVars"] == {"PATH": "/bin", "LANG": "de", "A": "1"}
    assert (identity["hostname"], identity["templateId"]) == (sandbox_id, TEMPLATE)
    assert (identity["defaultUser"], identity["defaultWorkdir"]) == ("user", "/home")


async def test_two_sandboxes_of_a_template_share_no_identity(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    first, second = [
        node.guests.identities_of(await created(cubelet, build_id, access_token=token))[0] for token in ("one", "two")
    ]
    for part in ("accessToken", "machineId", "entropy", "hostname", "sandboxId"):
        assert first[part] != second[part]


async def test_no_secret_is_on_disk(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    await created(cubelet, build_id, env_vars={"KEY": "hush-env"}, access_token="hush-token")
    for path in node.directory.rglob("*"):
        if path.is_file():
            assert b"hush" not in path.read_bytes(), path


async def test_the_same_id_again_is_the_same_sandbox(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    sandbox_id, request = new_sandbox_id(), wanted(build_id)
    node.host.latency = timedelta(milliseconds=30)
    answers = await asyncio.gather(*(cubelet.create_sandbox(sandbox_id, request) for _ in range(5)))
    assert len({answer.address for answer in answers}) == 1
    assert len(node.host.machines) == 1
    assert len(node.guests.identities_of(sandbox_id)) == 1


async def test_a_killed_sandbox_leaves_nothing(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    sandbox_id = await created(cubelet, build_id)
    assert node.ledger() != before
    await cubelet.delete_sandbox(sandbox_id)
    assert node.ledger() == before
    with pytest.raises(SandboxNotFound):
        await cubelet.get_sandbox(sandbox_id)
    assert node.ended.pending() == ()


async def test_killing_again_or_the_unknown_is_success(cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    sandbox_id = await created(cubelet, build_id)
    await asyncio.gather(*(cubelet.delete_sandbox(sandbox_id) for _ in range(3)))
    await cubelet.delete_sandbox(sandbox_id)
    await cubelet.delete_sandbox(new_sandbox_id())


async def test_a_kill_during_the_create_wins(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    node.host.latency = timedelta(milliseconds=100)
    sandbox_id = new_sandbox_id()
    creating = asyncio.create_task(cubelet.create_sandbox(sandbox_id, wanted(build_id)))
    await eventually(lambda: len(node.ledger().records) == 1)
    await cubelet.delete_sandbox(sandbox_id)
    await creating
    assert node.ledger() == before


async def test_the_tap_of_a_dead_sandbox_serves_the_next(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    addresses = set()
    for _ in range(6):
        sandbox_id = await created(cubelet, build_id)
        addresses.add((await cubelet.get_sandbox(sandbox_id)).address)
        await cubelet.delete_sandbox(sandbox_id)
    assert len(await node.switch.taps()) <= 3
    assert len(addresses) <= 3


async def test_at_its_end_time_a_sandbox_ends_with_reason_timeout(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    sandbox_id = await created(cubelet, build_id, lives=timedelta(milliseconds=200))
    await eventually(lambda: node.desk.reason_of(sandbox_id) == "timeout")
    await eventually(lambda: node.ledger() == before)


async def test_the_end_can_be_moved_both_ways(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    kept = await created(cubelet, build_id, lives=timedelta(seconds=1))
    ended = await created(cubelet, build_id)
    later = datetime.now(UTC) + timedelta(hours=1)
    await cubelet.set_deadline(kept, later)
    await cubelet.set_deadline(ended, datetime.now(UTC) - timedelta(seconds=1))
    await eventually(lambda: node.desk.reason_of(ended) == "timeout")
    await asyncio.sleep(1.1)
    assert [one.sandbox_id for one in await cubelet.list_sandboxes()] == [kept]
    assert node.record_of(kept).sandbox.end_at == later  # type: ignore[union-attr]
    with pytest.raises(SandboxNotFound):
        await cubelet.set_deadline(ended, later)


async def test_a_vmm_that_dies_ends_its_sandbox(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    sandbox_id = await created(cubelet, build_id)
    process = node.record_of(sandbox_id).process
    assert process is not None
    node.host.crash(process)
    await eventually(lambda: node.desk.reason_of(sandbox_id) == "vmm_died")
    await eventually(lambda: node.ledger() == before)


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        ("clone", VmmFailure),
        ("resume", VmmFailure),
        ("init", GuestFailure),
        ("silence", GuestFailure),
        ("disk", StorageFailure),
    ],
)
async def test_a_create_that_fails_leaves_nothing(
    operation: str, error: type[CubeError], node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id = await built(cubelet)
    before = await node.rest()
    sandbox_id = new_sandbox_id()
    match operation:
        case "init":
            node.guests.refuse_init = True
        case "silence":
            node.guests.stall_init = True
        case "disk":
            node.disks.full = True
        case _:
            node.host.fail_next(operation)
    with pytest.raises(error):
        await cubelet.create_sandbox(sandbox_id, wanted(build_id))
    assert node.ledger() == before
    assert await cubelet.list_sandboxes() == []
    node.guests.refuse_init = node.guests.stall_init = node.disks.full = False
    await cubelet.create_sandbox(sandbox_id, wanted(build_id))


async def test_creates_at_once_that_fail_in_part_leave_only_the_others(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id = await built(cubelet)
    node.host.latency = timedelta(milliseconds=5)
    node.host.fail_next("resume", times=3)
    requests = [cubelet.create_sandbox(new_sandbox_id(), wanted(build_id)) for _ in range(8)]
    answers = await asyncio.gather(*requests, return_exceptions=True)
    alive = {one.sandbox_id for one in answers if not isinstance(one, BaseException)}
    assert len(alive) == 5
    ledger = node.ledger()
    assert ledger.admitted == alive
    assert len(ledger.records) == len(ledger.processes) == len(ledger.runtime_dirs) == 5


async def test_a_template_that_is_not_here_is_said_so(cubelet: NodeClient) -> None:
    with pytest.raises(TemplateNotReady):
        await cubelet.create_sandbox(new_sandbox_id(), wanted("00000000-0000-4000-8000-000000000000"))


async def test_a_template_in_use_is_not_deleted(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    sandbox_id = await created(cubelet, build_id)
    with pytest.raises(Conflict):
        await cubelet.delete_build(TEMPLATE, build_id)
    await cubelet.delete_sandbox(sandbox_id)
    await cubelet.delete_build(TEMPLATE, build_id)
    await cubelet.delete_build(TEMPLATE, build_id)
    await eventually(lambda: not list(node.images.directory.glob("*.squashfs")))
