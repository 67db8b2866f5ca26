from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import master as wire
from appliance.contracts import node as node_wire
from appliance.domain.errors import Conflict, CubeError, SandboxNotFound, SandboxTransitioning
from appliance.domain.ids import BuildId, NodeId, SandboxId, TeamId, TemplateId, VolumeId
from appliance.domain.network import SandboxNetwork
from appliance.domain.placement import Resources
from appliance.domain.sandbox import (
    CHANGING,
    LIVE,
    REACHED,
    TRANSITIONS,
    EndReason,
    KeptRules,
    Observation,
    OnTimeout,
    Sandbox,
    SandboxState,
)
from appliance.domain.volume import Mount

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def sandbox(state: SandboxState = SandboxState.RUNNING, *, sandbox_id: str = "i1") -> Sandbox:
    return Sandbox(
        sandbox_id=SandboxId(sandbox_id),
        team_id=TeamId("team"),
        template_id=TemplateId("template"),
        build_id=BuildId("build"),
        alias=None,
        node_id=NodeId("node"),
        state=state,
        resources=Resources(1, 512),
        disk_size_mib=1024,
        envd_version="0.6.13",
        secure=True,
        started_at=NOW,
        end_at=NOW + timedelta(minutes=5),
    )


def test_no_copy_is_made_of_one_with_volumes() -> None:
    mounted = replace(sandbox(), volumes=(Mount(VolumeId("vol_1"), "data", "/data"),))
    with pytest.raises(Conflict, match="cannot be forked: it has the volumes 'data'"):
        mounted.snapshotting(at=NOW, what="forked")
    assert mounted.pausing(at=NOW).state is SandboxState.PAUSING
    sandbox().check_copyable("rolled back")


def test_other_rules_for_the_way_out_leave_those_for_the_way_in() -> None:
    rules = SandboxNetwork(allow_public_traffic=False, mask_request_host="localhost", allow_out=("1.1.1.1",))
    new = SandboxNetwork(allow_internet=False, dns_servers=("9.9.9.9",), mask_request_host="other")
    after = replace(sandbox(), network=rules).with_egress(new).network
    assert after == replace(rules, allow_internet=False, allow_out=(), dns_servers=("9.9.9.9",))


def test_what_ended_has_no_credentials() -> None:
    rules = KeptRules("named", sealed=True, secrets=("one",), tokens_due_at=NOW)
    ended = replace(sandbox(), rules=rules).ended(EndReason.KILLED, detail="", at=NOW)
    assert ended.rules == KeptRules("named")


def test_the_wire_knows_the_same_states_and_reasons() -> None:
    assert {one.value for one in SandboxState} == {one.value for one in wire.SandboxState}
    assert {one.value for one in EndReason} == {one.value for one in node_wire.EndReason}


def test_every_state_but_the_last_can_end_and_the_last_never_changes() -> None:
    assert set(TRANSITIONS) == set(SandboxState)
    assert all(SandboxState.ENDED in TRANSITIONS[state] for state in LIVE)
    assert TRANSITIONS[SandboxState.ENDED] == frozenset()


@pytest.mark.parametrize("state", sorted(LIVE))
def test_any_live_sandbox_can_be_killed_again_and_again(state: SandboxState) -> None:
    killing = sandbox(state).killing()
    assert killing.killing() is killing
    ended = killing.ended(EndReason.KILLED, detail="", at=NOW)
    with pytest.raises(SandboxNotFound):
        ended.killing()


def test_one_that_is_being_killed_ends_as_killed_whatever_the_node_saw() -> None:
    ended = sandbox(SandboxState.KILLING).ended(EndReason.VMM_DIED, detail="signal 9", at=NOW)
    assert ended.end is not None
    assert ended.end.reason is EndReason.KILLED


def test_a_sandbox_cannot_start_after_its_kill() -> None:
    with pytest.raises(SandboxTransitioning, match="being killed"):
        sandbox(SandboxState.KILLING).started(address="10.88.0.2", envd_version="0.6.13", at=NOW)


@pytest.mark.parametrize("state", sorted(set(SandboxState) - REACHED))
def test_only_what_runs_can_be_retimed(state: SandboxState) -> None:
    with pytest.raises(CubeError):
        sandbox(state).with_timeout(timedelta(minutes=1), now=NOW, extend_only=False)


@given(timeout_s=st.integers(0, 86_400), later_s=st.integers(0, 600))
def test_timeouts_count_from_now_and_extending_never_shortens(timeout_s: int, later_s: int) -> None:
    before, now = sandbox(), NOW + timedelta(seconds=later_s)
    timeout = timedelta(seconds=timeout_s)
    assert before.with_timeout(timeout, now=now, extend_only=False).end_at == now + timeout
    extended = before.with_timeout(timeout, now=now, extend_only=True)
    assert extended.end_at == max(before.end_at, now + timeout)


def seen(*, paused: bool, generation: int) -> Observation:
    return Observation(
        paused=paused,
        generation=generation,
        paused_at=NOW if paused else None,
        filesystem_only=False,
        address=None if paused else "10.88.0.3",
    )


def test_a_pause_and_a_resume_end_where_the_node_says() -> None:
    pausing = sandbox().pausing(at=NOW)
    assert (pausing.state, pausing.changing_since) == (SandboxState.PAUSING, NOW)
    paused = pausing.settled(seen(paused=True, generation=1), at=NOW)
    assert (paused.state, paused.address, paused.paused_at) == (SandboxState.PAUSED, None, NOW)
    later = NOW + timedelta(minutes=1)
    resuming = paused.resuming(timedelta(seconds=30), at=later)
    running = resuming.settled(seen(paused=False, generation=2), at=later)
    assert (running.state, running.address, running.paused_at) == (SandboxState.RUNNING, "10.88.0.3", None)
    assert running.end_at == later + timedelta(seconds=30)
    assert running.changing_since is None
    assert pausing.settled(seen(paused=False, generation=0), at=NOW).state is SandboxState.RUNNING
    assert resuming.settled(seen(paused=True, generation=1), at=NOW).paused_at == NOW


def test_a_report_that_a_call_overtook_changes_nothing() -> None:
    running = replace(sandbox(), generation=2)
    assert running.settled(seen(paused=True, generation=1), at=NOW) is running
    assert running.settled(seen(paused=True, generation=2), at=NOW) is running
    assert running.settled(seen(paused=True, generation=3), at=NOW).state is SandboxState.PAUSED


@pytest.mark.parametrize("state", sorted(SandboxState))
def test_what_is_paused_or_killed_out_of_a_pause_holds_nothing(state: SandboxState) -> None:
    expected = {SandboxState.PAUSED: 0, SandboxState.ENDED: 0, SandboxState.ROLLING_BACK: 2}
    assert sandbox(state).machines == expected.get(state, 1)
    paused = replace(sandbox(SandboxState.PAUSED), paused_at=NOW)
    assert paused.killing().machines == 0
    assert paused.resuming(timedelta(seconds=1), at=NOW).killing().machines == 1
    assert sandbox().rolling_back(at=NOW).killing().machines == 1


def test_a_rollback_is_over_once_its_node_has_counted_it() -> None:
    rolling = replace(sandbox(), generation=2, address="10.88.0.2").rolling_back(at=NOW)
    assert (rolling.state, rolling.changing_since) == (SandboxState.ROLLING_BACK, NOW)
    before, after = seen(paused=False, generation=2), seen(paused=False, generation=3)
    back = rolling.settled(after, at=NOW)
    assert (back.state, back.generation, back.changing_since) == (SandboxState.RUNNING, 3, None)
    assert rolling.settled(before, at=NOW).generation == 2, "it failed, and runs on"
    assert rolling.settled(seen(paused=True, generation=4), at=NOW).state is SandboxState.PAUSED
    assert rolling.unheard().state is SandboxState.RUNNING
    assert rolling.out_of_reach(at=NOW) is None, "nothing of it is on the disk of a lost node"


@pytest.mark.parametrize("state", sorted(CHANGING - {SandboxState.SNAPSHOTTING, SandboxState.ROLLING_BACK}))
def test_with_its_node_lost_what_was_on_its_way_waits_on_the_disk(state: SandboxState) -> None:
    waiting = sandbox(state).out_of_reach(at=NOW)
    assert waiting is not None
    assert waiting.state is SandboxState.PAUSED
    assert sandbox(SandboxState.RUNNING).out_of_reach(at=NOW) is None


def test_a_paused_one_is_neither_paused_again_nor_retimed_and_a_running_one_not_resumed() -> None:
    with pytest.raises(Conflict, match="cannot be paused while in 'paused' state"):
        sandbox(SandboxState.PAUSED).pausing(at=NOW)
    with pytest.raises(Conflict, match="cannot be forked while in 'paused' state"):
        sandbox(SandboxState.PAUSED).snapshotting(at=NOW, what="forked")
    with pytest.raises(Conflict, match="cannot be rolled back while in 'paused' state"):
        sandbox(SandboxState.PAUSED).rolling_back(at=NOW)
    with pytest.raises(SandboxTransitioning, match="being rolled back"):
        sandbox(SandboxState.ROLLING_BACK).pausing(at=NOW)
    with pytest.raises(Conflict, match="already running"):
        sandbox().resuming(timedelta(seconds=1), at=NOW)
    with pytest.raises(SandboxTransitioning, match="being snapshotted"):
        sandbox(SandboxState.SNAPSHOTTING).pausing(at=NOW)


def test_traffic_wakes_no_sandbox_that_would_boot() -> None:
    wanted = replace(sandbox(SandboxState.PAUSED), auto_resume=True)
    assert wanted.wakes
    assert not replace(wanted, filesystem_only=True).wakes
    assert replace(wanted, on_timeout=OnTimeout.KILL).wakes


STEPS = {
    "pause": lambda one: one.pausing(at=NOW),
    "snapshot": lambda one: one.snapshotting(at=NOW),
    "roll back": lambda one: one.rolling_back(at=NOW),
    "resume": lambda one: one.resuming(timedelta(seconds=1), at=NOW),
    "slept": lambda one: one.settled(seen(paused=True, generation=one.generation + 1), at=NOW),
    "runs": lambda one: one.settled(seen(paused=False, generation=one.generation + 1), at=NOW),
    "unheard": lambda one: one.unheard(),
    "start": lambda one: one.started(address="10.88.0.2", envd_version="0.6.13", at=NOW),
    "kill": lambda one: one.killing(),
    "end": lambda one: one.ended(EndReason.TIMEOUT, detail="", at=NOW),
    "retime": lambda one: one.with_timeout(timedelta(seconds=1), now=NOW, extend_only=False),
}


@given(steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_no_sequence_of_calls_revives_a_sandbox_or_changes_why_it_ended(steps: list[str]) -> None:
    current = sandbox(SandboxState.CREATING)
    for step in steps:
        try:
            after = STEPS[step](current)
        except CubeError:
            continue
        assert current.state is not SandboxState.ENDED or after is current
        assert after.state is current.state or after.state in TRANSITIONS[current.state]
        assert (after.changing_since is not None) == (after.state in CHANGING)
        assert (after.end is not None) == (after.state is SandboxState.ENDED)
        current = after
