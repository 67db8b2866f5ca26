from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import master as wire
from appliance.contracts import node as node_wire
from appliance.domain.errors import CubeError, SandboxNotFound, SandboxTransitioning
from appliance.domain.ids import BuildId, NodeId, SandboxId, TeamId, TemplateId
from appliance.domain.placement import Resources
from appliance.domain.sandbox import LIVE, TRANSITIONS, VISIBLE, EndReason, Sandbox, SandboxState

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


@pytest.mark.parametrize("state", sorted(set(SandboxState) - VISIBLE))
def test_only_what_callers_see_can_be_retimed(state: SandboxState) -> None:
    with pytest.raises(CubeError):
        sandbox(state).with_timeout(timedelta(minutes=1), now=NOW, extend_only=False)


@given(timeout_s=st.integers(0, 86_400), later_s=st.integers(0, 600))
def test_timeouts_count_from_now_and_extending_never_shortens(timeout_s: int, later_s: int) -> None:
    before, now = sandbox(), NOW + timedelta(seconds=later_s)
    timeout = timedelta(seconds=timeout_s)
    assert before.with_timeout(timeout, now=now, extend_only=False).end_at == now + timeout
    extended = before.with_timeout(timeout, now=now, extend_only=True)
    assert extended.end_at == max(before.end_at, now + timeout)


STEPS = {
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
        assert current.state is not SandboxState.ENDED
        assert after.state is current.state or after.state in TRANSITIONS[current.state]
        assert (after.end is not None) == (after.state is SandboxState.ENDED)
        current = after
