"""The pool: VMs that wait, are claimed once, and are given up when they are too many or their template goes."""

from __future__ import annotations

import asyncio

import pytest

from appliance.clients.node import NodeClient
from appliance.cubelet.runtime import Stage
from appliance.cubelet.settings import PoolSettings
from appliance.domain.errors import GuestFailure
from appliance.domain.ids import new_sandbox_id
from appliance.hypervisor.base import VmState
from tests.integration.cubelet.conftest import TEMPLATE, FakeMachineRoom, built, created, pooled, until, wanted
from tests.support.waiting import eventually


@pytest.fixture
def pool_size() -> int:
    return 2


async def full(node: FakeMachineRoom, cubelet: NodeClient, build_id: str, size: int = 2) -> None:
    async def is_full() -> bool:
        return await pooled(cubelet, build_id) == size

    await until(is_full)
    await node.rest()


async def test_waiting_vms_are_warm_and_cost_no_processor(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    warmed = len(node.guests.commands)
    await full(node, cubelet, build_id)
    assert len(node.guests.commands) == warmed + 2 * 2, "two VMs, each of which has run its command twice"
    assert {machine.state for machine in node.host.machines.values()} == {VmState.PAUSED}
    assert node.ledger().admitted == frozenset()


async def test_a_create_claims_a_waiting_vm_and_the_pool_fills_again(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    build_id = await built(cubelet)
    await full(node, cubelet, build_id)
    waiting = node.ledger().records
    sandbox_id = await created(cubelet, build_id)
    assert (await cubelet.get_sandbox(sandbox_id)).pooled
    assert node.record_of(sandbox_id).vm_id in waiting
    await full(node, cubelet, build_id)
    assert len(node.host.machines) == 3


async def test_no_vm_is_claimed_twice(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    await full(node, cubelet, build_id)
    made = await asyncio.gather(*(created(cubelet, build_id) for _ in range(5)))
    records = [node.record_of(sandbox_id) for sandbox_id in made]
    assert len({record.vm_id for record in records}) == len({record.address for record in records}) == 5
    assert sum(record.sandbox.pooled for record in records if record.sandbox is not None) >= 2


async def test_a_claimed_vm_that_refuses_its_owner_is_destroyed(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    await full(node, cubelet, build_id)
    waiting = node.ledger().records
    node.guests.refuse_owners = True
    with pytest.raises(GuestFailure):
        await cubelet.create_sandbox(new_sandbox_id(), wanted(build_id))
    await full(node, cubelet, build_id)
    ledger = node.ledger()
    assert len(ledger.records) == len(ledger.processes) == len(ledger.runtime_dirs) == 2
    assert ledger.records != waiting
    assert ledger.admitted == frozenset()


async def test_a_waiting_vm_that_fails_to_come_up_is_tried_again(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    node.host.fail_next("pause", times=2)
    build_id = await built(cubelet)
    await full(node, cubelet, build_id)
    assert len(node.ledger().processes) == 2


async def test_deleting_a_template_frees_its_pool(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    await full(node, cubelet, build_id)
    await cubelet.delete_build(TEMPLATE, build_id)
    ledger = await node.rest()
    assert (ledger.records, ledger.processes, ledger.runtime_dirs) == (frozenset(), frozenset(), frozenset())


async def test_a_lower_limit_is_kept_after_a_restart(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        await full(node, cubelet, build_id)
    node.reconfigured(pool=PoolSettings(per_template=1, total=1))
    async with node.cubelet() as cubelet:
        await full(node, cubelet, build_id, size=1)
        assert len(node.ledger().processes) == 1


async def test_waiting_vms_go_on_waiting_over_a_restart(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        await full(node, cubelet, build_id)
    before = node.ledger()
    assert len(before.records) == 2
    async with node.cubelet() as cubelet:
        assert await pooled(cubelet, build_id) == 2
        assert node.ledger() == before
        assert {record.stage for record in node.records.load().records} == {Stage.WAITING}
        await created(cubelet, build_id)


def _crash_all(node: FakeMachineRoom) -> None:
    for machine in list(node.host.machines.values()):
        node.host.crash(machine.process)


async def test_waiting_vms_that_died_are_replaced(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    await full(node, cubelet, build_id)
    dead = node.ledger().records
    _crash_all(node)
    await eventually(lambda: len(node.ledger().processes) == 2)
    await full(node, cubelet, build_id)
    await eventually(lambda: len(node.ledger().records) == 2)
    assert not node.ledger().records & dead


async def test_a_waiting_vm_that_died_is_not_given_to_anybody(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    build_id = await built(cubelet)
    await full(node, cubelet, build_id)
    _crash_all(node)
    sandbox_id = await created(cubelet, build_id)
    process = node.record_of(sandbox_id).process
    assert process is not None
    assert node.host.find(process) is not None
