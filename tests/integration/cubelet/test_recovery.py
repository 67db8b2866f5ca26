"""A Cubelet that comes back: it goes on with what lives, tells of what ended, and frees what nobody owns."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appliance.contracts.node import EndReason
from appliance.cubelet.runtime import Stage, VmRecord
from tests.integration.cubelet.conftest import FakeMachineRoom, built, created
from tests.support.waiting import eventually


async def _left_at(node: FakeMachineRoom, stage: Stage, **changes: object) -> tuple[str, VmRecord]:
    """Leave a sandbox's VM behind as a Cubelet does that is killed while the VM is at `stage`."""
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        await node.rest()
        sandbox_id = await created(cubelet, build_id)
    record = node.record_of(sandbox_id).model_copy(update={"stage": stage, **changes})
    node.records.save(record)
    return sandbox_id, record


async def test_running_sandboxes_go_on(node: FakeMachineRoom) -> None:
    sandbox_id, record = await _left_at(node, Stage.RUNNING)
    before = node.ledger()
    inits = len(node.guests.identities)
    async with node.cubelet() as cubelet:
        (sandbox,) = await cubelet.list_sandboxes()
        assert (sandbox.sandbox_id, sandbox.address) == (sandbox_id, str(record.address))
        assert node.ledger() == before
        assert len(node.guests.identities) == inits
        await cubelet.delete_sandbox(sandbox_id)
        assert node.ledger().records == node.ledger().processes == frozenset()


async def test_an_adopted_sandbox_is_watched_and_ends_at_its_time(node: FakeMachineRoom) -> None:
    dies, died = await _left_at(node, Stage.RUNNING)
    async with node.cubelet() as cubelet:
        expires = await created(cubelet, died.build_id, lives=timedelta(seconds=2))
    async with node.cubelet() as cubelet:
        assert len(await cubelet.list_sandboxes()) == 2
        assert died.process is not None
        node.host.crash(died.process)
        await eventually(lambda: node.desk.reason_of(dies) == "vmm_died")
        await eventually(lambda: node.desk.reason_of(expires) == "timeout")
    assert node.ledger().records == frozenset()


async def test_a_time_that_passed_meanwhile_ends_the_sandbox(node: FakeMachineRoom) -> None:
    sandbox_id, record = await _left_at(node, Stage.RUNNING)
    assert record.sandbox is not None
    past = record.sandbox.model_copy(update={"end_at": record.sandbox.started_at})
    node.records.save(record.model_copy(update={"sandbox": past}))
    async with node.cubelet():
        await eventually(lambda: node.desk.reason_of(sandbox_id) == "timeout")


@pytest.mark.parametrize(
    ("stage", "changes", "reason"),
    [
        (Stage.CREATING, {}, "failed_start"),
        (Stage.RUNNING, {"boot_id": "an earlier boot"}, "node_rebooted"),
        (Stage.ENDING, {"end_reason": EndReason.TIMEOUT}, "timeout"),
        (Stage.ENDING, {"end_reason": EndReason.KILLED}, "killed"),
    ],
)
async def test_what_cannot_go_on_is_freed_and_told(
    stage: Stage, changes: dict[str, object], reason: str, node: FakeMachineRoom
) -> None:
    sandbox_id, _ = await _left_at(node, stage, **changes)
    async with node.cubelet() as cubelet:
        await eventually(lambda: node.desk.reason_of(sandbox_id) == reason)
        assert await cubelet.list_sandboxes() == []
        ledger = node.ledger()
        assert (ledger.records, ledger.runtime_dirs, ledger.admitted) == (frozenset(), frozenset(), frozenset())
        assert ledger.processes == frozenset()


async def test_a_sandbox_whose_vmm_died_meanwhile_is_freed_and_told(node: FakeMachineRoom) -> None:
    sandbox_id, record = await _left_at(node, Stage.RUNNING)
    assert record.process is not None
    node.host.crash(record.process)
    async with node.cubelet():
        await eventually(lambda: node.desk.reason_of(sandbox_id) == "vmm_died")
        assert node.ledger().records == frozenset()


@pytest.mark.parametrize("stage", [Stage.PREPARING, Stage.WAITING])
async def test_what_belongs_to_nobody_is_freed_without_news(stage: Stage, node: FakeMachineRoom) -> None:
    changes: dict[str, object] = {"sandbox": None}
    if stage is Stage.WAITING:
        changes["build_id"] = "a template that is gone"
    sandbox_id, _ = await _left_at(node, stage, **changes)
    async with node.cubelet():
        ledger = node.ledger()
        assert (ledger.records, ledger.runtime_dirs, ledger.processes) == (frozenset(), frozenset(), frozenset())
        beats = len(node.desk.beats)
        await eventually(lambda: len(node.desk.beats) > beats + 2)
    assert node.desk.reason_of(sandbox_id) is None


async def test_debris_without_a_record_is_removed(node: FakeMachineRoom) -> None:
    data = node.settings.data_dir
    (data / "sandboxes" / "vdead").mkdir(parents=True)
    (data / "sandboxes" / "vdead" / "upper.img").touch()
    (data / "templates" / ".half-built").mkdir(parents=True)
    (node.settings.run_dir / "vgone").mkdir(parents=True)
    async with node.cubelet():
        assert node.ledger().records == node.ledger().runtime_dirs == node.ledger().workspaces == frozenset()


async def test_taps_are_taken_over_and_reused(node: FakeMachineRoom) -> None:
    _, record = await _left_at(node, Stage.RUNNING)
    taps = await node.switch.taps()
    async with node.cubelet() as cubelet:
        again = await created(cubelet, record.build_id)
        used = node.record_of(again)
        assert used.tap_name != record.tap_name
        assert used.tap in taps


async def test_a_record_of_a_later_release_is_left_alone_with_all_it_may_describe(node: FakeMachineRoom) -> None:
    _, record = await _left_at(node, Stage.RUNNING)
    path = node.records.directory(record.vm_id) / "record.json"
    later = path.read_text().replace('"version":1', '"version":2')
    path.write_text(later)
    async with node.cubelet() as cubelet:
        assert path.read_text() == later
        assert node.ledger().runtime_dirs == {record.vm_id}
        assert record.process is not None
        assert node.host.find(record.process) is not None
        others = [await created(cubelet, record.build_id) for _ in range(3)]
        assert record.tap_name not in {node.record_of(one).tap_name for one in others}


async def test_news_of_an_end_is_kept_until_it_is_taken(node: FakeMachineRoom) -> None:
    node.desk.refusing = True
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        sandbox_id = await created(cubelet, build_id, lives=timedelta(milliseconds=50))
        await eventually(lambda: len(node.ended.pending()) == 1)
    async with node.cubelet():
        assert [one.sandbox_id for one in node.ended.pending()] == [sandbox_id]
        node.desk.refusing = False
        await eventually(lambda: node.ended.pending() == ())
    assert [one.reason for one in node.desk.ended] == [EndReason.TIMEOUT]


async def test_heartbeats_go_on_after_a_master_that_failed_in_any_way(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        await eventually(lambda: len(node.desk.beats) > 1)
        for fault in ("refusing", "answers_nonsense"):
            setattr(node.desk, fault, True)
            build_id = await built(cubelet)
            await created(cubelet, build_id, lives=timedelta(milliseconds=10))
            await eventually(lambda: len(node.ended.pending()) == 1)
            setattr(node.desk, fault, False)
            beats = len(node.desk.beats)
            await eventually(lambda beats=beats: len(node.desk.beats) > beats)  # type: ignore[misc]
            await eventually(lambda: node.ended.pending() == ())


async def test_a_heartbeat_says_what_the_node_has(node: FakeMachineRoom) -> None:
    async with node.cubelet() as cubelet:
        build_id = await built(cubelet)
        sandbox_id = await created(cubelet, build_id)
        beats = len(node.desk.beats)
        await eventually(lambda: len(node.desk.beats) > beats + 1)
    newest = node.desk.beats[-1]
    assert (newest.node_id, newest.vmm, newest.ready) == ("node-1", "fake 1", True)
    assert [one.sandbox_id for one in newest.sandboxes] == [sandbox_id]
    assert [one.build_id for one in newest.replicas] == [build_id]
