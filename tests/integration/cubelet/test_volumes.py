"""Volumes of a node whose guests are pretended: who has them, who is refused, and what is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.clients.node import NodeClient
from appliance.common.http import Answer, raise_for
from appliance.contracts.errors import ErrorBody
from appliance.contracts.node import Pause, Resume, Snapshot
from appliance.contracts.node_volumes import NewNodeVolume
from appliance.domain.errors import (
    Conflict,
    GuestFailure,
    InvalidRequest,
    NodeFailure,
    NoKeeper,
    VolumeInUse,
    VolumeNotFound,
)
from appliance.domain.ids import new_sandbox_id, new_volume_id
from tests.integration.cubelet.conftest import FakeMachineRoom, built, created, until, wanted
from tests.support.waiting import eventually

SIZE_MIB = 64


@pytest.fixture(autouse=True)
def small_volumes(node: FakeMachineRoom) -> None:
    node.reconfigured(volumes=node.settings.volumes.model_copy(update={"size_mib": SIZE_MIB, "served": 2}))


async def new_volume(cubelet: NodeClient) -> str:
    volume_id = new_volume_id()
    await cubelet.volumes.make(volume_id, NewNodeVolume(size_mib=SIZE_MIB))
    return volume_id


def mounted(*volume_ids: str) -> list[dict[str, str]]:
    return [{"volume_id": volume_id, "path": f"/data/{n}"} for n, volume_id in enumerate(volume_ids)]


async def holders(cubelet: NodeClient) -> dict[str, str | None]:
    return {one.volume_id: one.sandbox_id for one in await cubelet.volumes.all()}


def again() -> Resume:
    return Resume(end_at=datetime.now(UTC) + timedelta(minutes=5))


def asked(
    cubelet: NodeClient,
    volume_id: str,
    method: str,
    body: AsyncIterator[bytes] | None = None,
    params: Sequence[tuple[str, str]] = (("path", "/f"),),
) -> AbstractAsyncContextManager[Answer]:
    return cubelet.volumes.content(
        method, volume_id, "file", params=params, headers={}, body=body, idle=timedelta(seconds=30)
    )


async def content(
    cubelet: NodeClient, volume_id: str, params: Sequence[tuple[str, str]] = (("path", "/f"),)
) -> dict[str, Any]:
    """Return what whoever has the volume says; the node's refusals are raised as a caller of the node's would."""
    async with asked(cubelet, volume_id, "GET", params=params) as answer:
        found: dict[str, Any] = json.loads(await answer.whole(most=65536))
        if answer.status != 200:
            raise_for(answer.status, ErrorBody.model_validate(found), service="cubelet")
        return found


def images(node: FakeMachineRoom) -> set[str]:
    directory = node.settings.data_dir / "volumes"
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


async def test_a_volume_is_made_once_and_deleted_once(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    volume_id = await new_volume(cubelet)
    await cubelet.volumes.make(volume_id, NewNodeVolume(size_mib=SIZE_MIB))
    (shown,) = await cubelet.volumes.all()
    assert (shown.volume_id, shown.size_mib, shown.sandbox_id) == (volume_id, SIZE_MIB, None)
    assert shown.used_mib < SIZE_MIB
    await cubelet.volumes.delete(volume_id)
    await cubelet.volumes.delete(volume_id)
    assert await cubelet.volumes.all() == []
    assert images(node) == set()


@pytest.mark.parametrize("size_mib", [SIZE_MIB - 1, SIZE_MIB + 1])
async def test_another_size_is_refused(node: FakeMachineRoom, cubelet: NodeClient, size_mib: int) -> None:
    with pytest.raises(InvalidRequest, match=f"have {SIZE_MIB} MiB, not {size_mib}"):
        await cubelet.volumes.make(new_volume_id(), NewNodeVolume(size_mib=size_mib))
    assert images(node) == set()


async def test_an_id_that_is_none_is_refused(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    with pytest.raises(InvalidRequest):
        await cubelet.volumes.make("vol_UPPER", NewNodeVolume(size_mib=SIZE_MIB))
    await cubelet.volumes.delete("vol_short")
    build_id = await built(cubelet)
    with pytest.raises(VolumeNotFound):
        await created(cubelet, build_id, volumes=mounted("../uppers/16"))


async def test_a_sandbox_has_its_volumes_in_its_slots(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    first, second = await new_volume(cubelet), await new_volume(cubelet)
    sandbox_id = await created(cubelet, build_id, volumes=mounted(first, second))

    (identity,) = node.guests.identities_of(sandbox_id)
    assert identity["volumeMounts"] == [{"slot": 0, "path": "/data/0"}, {"slot": 1, "path": "/data/1"}]
    (machine,) = node.host.machines.values()
    assert [slot.image and slot.image.stem for slot in machine.spec.slots] == [first, second]
    assert {slot.size_mib for slot in machine.spec.slots} == {SIZE_MIB}
    assert await holders(cubelet) == {first: sandbox_id, second: sandbox_id}

    with pytest.raises(VolumeInUse, match=sandbox_id):
        await created(cubelet, build_id, volumes=mounted(second))
    with pytest.raises(VolumeInUse):
        await cubelet.volumes.delete(first)
    await cubelet.delete_sandbox(sandbox_id)
    assert node.guests.released == [sandbox_id]
    again_id = await created(cubelet, build_id, volumes=mounted(second))
    assert await holders(cubelet) == {first: None, second: again_id}


async def test_a_volume_is_let_go_of_when_the_time_is_up(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    sandbox_id = await created(cubelet, build_id, volumes=mounted(volume_id))
    await cubelet.set_deadline(sandbox_id, datetime.now(UTC))
    await eventually(lambda: node.desk.reason_of(sandbox_id) == "timeout")
    assert node.guests.released == [sandbox_id]
    # The node may not have forgotten it yet, which is no reason to refuse the volume to the next.
    heir = await created(cubelet, build_id, volumes=mounted(volume_id))
    assert await holders(cubelet) == {volume_id: heir}


async def test_a_guest_that_does_not_let_go_does_not_hold_up_its_end(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    sandbox_id = await created(cubelet, build_id, volumes=mounted(volume_id))
    node.guests.stall_release = True
    await cubelet.delete_sandbox(sandbox_id)
    assert await holders(cubelet) == {volume_id: None}
    assert node.ledger().processes == frozenset()


async def test_of_two_creates_at_once_one_gets_the_volume(cubelet: NodeClient) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    made = await asyncio.gather(
        *(created(cubelet, build_id, volumes=mounted(volume_id)) for _ in range(3)), return_exceptions=True
    )
    assert sorted(isinstance(one, VolumeInUse) for one in made) == [False, True, True]


async def test_a_create_that_fails_leaves_the_volume_free(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    node.guests.refuse_owners = True
    with pytest.raises(NodeFailure, match="made to refuse"):
        await created(cubelet, build_id, volumes=mounted(volume_id))
    node.guests.refuse_owners = False
    assert await holders(cubelet) == {volume_id: None}
    await created(cubelet, build_id, volumes=mounted(volume_id))


@pytest.mark.parametrize(
    "mounts",
    [
        [("vol_a", "/a"), ("vol_b", "/b"), ("vol_c", "/c")],
        [("vol_a", "/a"), ("vol_a", "/b")],
        [("vol_a", "/a"), ("vol_b", "/a")],
        [("vol_a", "a")],
        [("vol_a", "/")],
        [("vol_a", "//")],
        [("vol_a", "/a/../b")],
        [("vol_a", "/a/")],
    ],
)
async def test_mounts_that_cannot_be_are_refused(cubelet: NodeClient, mounts: list[tuple[str, str]]) -> None:
    build_id = await built(cubelet)
    with pytest.raises(InvalidRequest):
        await created(cubelet, build_id, volumes=[{"volume_id": one, "path": path} for one, path in mounts])


async def test_a_template_made_for_other_volumes_says_so(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
    node.reconfigured(volumes=node.settings.volumes.model_copy(update={"size_mib": 128}))
    async with node.cubelet() as cubelet:
        volume_id = new_volume_id()
        await cubelet.volumes.make(volume_id, NewNodeVolume(size_mib=128))
        with pytest.raises(InvalidRequest, match="build the template again"):
            await created(cubelet, build_id, volumes=mounted(volume_id))
        await created(cubelet, build_id)


async def test_a_sandbox_keeps_its_volume_over_pauses_and_restarts(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        build_id, volume_id = await built(cubelet), await new_volume(cubelet)
        sandbox_id = await created(cubelet, build_id, volumes=mounted(volume_id))
    async with node.cubelet() as cubelet:
        assert await holders(cubelet) == {volume_id: sandbox_id}
        await cubelet.pause_sandbox(sandbox_id, Pause())
        with pytest.raises(VolumeInUse):
            await created(cubelet, build_id, volumes=mounted(volume_id))
        with pytest.raises(Conflict, match="not running"):
            await content(cubelet, volume_id)
    async with node.cubelet() as cubelet:
        assert await holders(cubelet) == {volume_id: sandbox_id}
        for memory in (True, False):
            await cubelet.resume_sandbox(sandbox_id, again())
            mount = [{"slot": 0, "path": "/data/0"}]
            assert node.guests.identities_of(sandbox_id)[-1]["volumeMounts"] == mount
            (machine,) = node.host.machines.values()
            assert machine.spec.slots[0].image is not None
            await cubelet.pause_sandbox(sandbox_id, Pause(memory=memory))
        await cubelet.delete_sandbox(sandbox_id)
        await cubelet.volumes.delete(volume_id)


async def test_no_copy_is_made_of_a_sandbox_with_volumes(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    sandbox_id = await created(cubelet, build_id, volumes=mounted(volume_id))
    with pytest.raises(Conflict, match="has volumes"):
        await cubelet.snapshot_sandbox(sandbox_id, Snapshot(template_id="snap", build_id="snapshot"))
    assert node.ledger().workspaces == frozenset()


async def test_the_sandbox_that_has_a_volume_answers_for_its_content(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id = await built(cubelet)
    first, second = await new_volume(cubelet), await new_volume(cubelet)
    sandbox_id = await created(cubelet, build_id, volumes=mounted(first, second))
    assert await content(cubelet, second, params=[("path", "/a b&c"), ("slot", "0")]) == {
        "method": "GET",
        "query": {"path": "/a b&c", "slot": "1"},
        "sent": "",
        "by": sandbox_id,
    }
    assert len(node.host.machines) == 1


async def test_the_guests_answers_are_passed_on_as_they_are(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    volume_id = await new_volume(cubelet)

    async def body() -> AsyncIterator[bytes]:
        yield b"a body "
        yield b"in pieces"

    for status in (201, 404, 409, 507):
        node.guests.content_status = status
        async with asked(cubelet, volume_id, "PUT", body()) as answer:
            assert answer.status == status
            assert json.loads(await answer.whole(most=65536))["sent"] == "a body in pieces"
    node.guests.content_status = 302
    with pytest.raises(GuestFailure):
        await content(cubelet, volume_id)


async def test_a_volume_that_is_not_there_has_no_content(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    for volume_id in (new_volume_id(), "x"):
        with pytest.raises(VolumeNotFound):
            await content(cubelet, volume_id)
    assert node.host.machines == {}


async def test_a_keeper_answers_while_no_sandbox_has_the_volume(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    volume_id = await new_volume(cubelet)
    one, other = await asyncio.gather(content(cubelet, volume_id), content(cubelet, volume_id))
    assert one["by"] == other["by"]
    (machine,) = node.host.machines.values()
    assert one["by"] == machine.spec.vm_id
    assert machine.spec.slots[0].image is not None
    assert node.ledger().admitted == frozenset(), "it reaches nobody"
    assert await holders(cubelet) == {volume_id: None}
    assert await cubelet.list_sandboxes() == []


async def test_a_keeper_ends_when_nobody_calls(node: FakeMachineRoom) -> None:
    node.reconfigured(volumes=node.settings.volumes.model_copy(update={"served_idle_s": 0.1}))
    async with node.cubelet() as cubelet:
        keeper = (await content(cubelet, await new_volume(cubelet)))["by"]
        await eventually(lambda: node.guests.released == [keeper] and not node.ledger().records)
        assert node.ledger().processes == node.ledger().runtime_dirs == frozenset()


async def test_a_keeper_makes_way_for_a_sandbox(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    keeper = (await content(cubelet, volume_id))["by"]
    sandbox_id = await created(cubelet, build_id, volumes=mounted(volume_id))
    assert node.guests.released == [keeper]
    assert len(node.host.machines) == 1
    assert (await content(cubelet, volume_id))["by"] == sandbox_id


async def test_a_call_under_way_is_finished_before_a_sandbox_gets_the_volume(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    await content(cubelet, volume_id)
    node.guests.content_gate.clear()
    async with asyncio.TaskGroup() as group:
        call = group.create_task(content(cubelet, volume_id))
        await asyncio.sleep(0.1)
        creating = group.create_task(created(cubelet, build_id, volumes=mounted(volume_id)))

        async def is_claimed() -> bool:
            return (await holders(cubelet))[volume_id] is not None

        await until(is_claimed)
        with pytest.raises(VolumeInUse):
            await content(cubelet, volume_id)
        assert not creating.done()
        node.guests.content_gate.set()
    assert call.result()["method"] == "GET"
    assert (await holders(cubelet))[volume_id] == creating.result()


async def test_a_keeper_that_is_booting_is_given_up_for_a_sandbox(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id, volume_id = await built(cubelet), await new_volume(cubelet)
    node.guests.port_status = 500
    call = asyncio.create_task(content(cubelet, volume_id))
    await eventually(lambda: len(node.host.machines) == 1)
    sandbox_id = await created(cubelet, build_id, volumes=mounted(volume_id))
    with pytest.raises(VolumeInUse):
        await call
    assert len(node.host.machines) == 1
    assert (await holders(cubelet))[volume_id] == sandbox_id


async def test_a_keeper_that_cannot_boot_leaves_nothing(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    volume_id = await new_volume(cubelet)
    node.host.fail_next("boot")
    with pytest.raises(NodeFailure):
        await content(cubelet, volume_id)
    assert (await node.rest()).records == frozenset()
    assert (await content(cubelet, volume_id))["method"] == "GET"


async def test_keepers_are_bounded_and_the_idle_one_gives_way(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    volumes = [await new_volume(cubelet) for _ in range(3)]
    keepers = [(await content(cubelet, volume_id))["by"] for volume_id in volumes]
    await eventually(lambda: node.guests.released == keepers[:1])
    await eventually(lambda: len(node.host.machines) == 2)
    node.guests.content_gate.clear()
    async with AsyncExitStack() as stack:
        stack.callback(node.guests.content_gate.set)
        calls = [asyncio.create_task(content(cubelet, volume_id)) for volume_id in volumes[1:]]
        await asyncio.sleep(0.2)
        with pytest.raises(NoKeeper):
            await content(cubelet, volumes[0])
    await asyncio.gather(*calls)


async def test_a_deleted_volume_takes_its_keeper_with_it(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    volume_id = await new_volume(cubelet)
    await content(cubelet, volume_id)
    await cubelet.volumes.delete(volume_id)
    assert node.host.machines == {}
    assert images(node) == set()


async def test_keepers_end_with_their_cubelet(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        keeper = (await content(cubelet, await new_volume(cubelet)))["by"]
    assert node.guests.released == [keeper]
    assert node.ledger().processes == node.ledger().records == frozenset()


async def test_a_pool_is_for_sandboxes_without_volumes(node: FakeMachineRoom) -> None:
    node.reconfigured(pool=node.settings.pool.model_copy(update={"per_template": 1}))
    async with node.cubelet() as cubelet:
        build_id, volume_id = await built(cubelet), await new_volume(cubelet)

        async def filled() -> bool:
            return any(one.pooled for one in (await cubelet.status()).replicas)

        await until(filled)
        sandbox = await cubelet.create_sandbox(new_sandbox_id(), wanted(build_id, volumes=mounted(volume_id)))
        assert not sandbox.pooled
