from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.ids import NodeId, SandboxId
from appliance.domain.node import AbsenceWatch, HeartbeatWatch, compare, compare_sleep
from appliance.domain.sandbox import LIVE, EndReason, Sandbox, SandboxState
from tests.unit.domain.test_sandbox import sandbox, seen

A, B = NodeId("a"), NodeId("b")


def test_a_node_is_silent_once_its_counter_stood_still_for_long_enough() -> None:
    watch = HeartbeatWatch(timedelta(seconds=10))
    assert watch.silent({A: 1, B: 1}, at=0) == []
    assert watch.silent({A: 1, B: 2}, at=9) == []
    assert watch.silent({A: 1, B: 2}, at=10) == [A]
    assert watch.silent({A: 2, B: 2}, at=19) == [B]


def test_a_watch_that_just_started_blames_nobody() -> None:
    watch = HeartbeatWatch(timedelta(seconds=10))
    assert watch.silent({A: 7}, at=1_000_000) == []
    watch.silent({A: 7}, at=1_000_009)
    watch.restart()
    assert watch.silent({A: 7}, at=1_000_020) == []


def test_only_a_lasting_absence_counts() -> None:
    watch = AbsenceWatch[SandboxId](timedelta(seconds=10))
    one, two = SandboxId("i1"), SandboxId("i2")
    assert watch.lasting(A, [one], at=0) == frozenset()
    assert watch.lasting(A, [], at=5) == frozenset()
    assert watch.lasting(A, [one, two], at=12) == frozenset()
    assert watch.lasting(B, [one], at=22) == frozenset()
    assert watch.lasting(A, [one], at=22) == {one}


def test_an_interrupted_create_is_left_to_whoever_creates() -> None:
    assert compare([sandbox(SandboxState.CREATING)], set(), rebooted=False).end == ()


def test_a_kill_is_finished_when_the_node_no_longer_has_it_and_repeated_while_it_has() -> None:
    killing = sandbox(SandboxState.KILLING)
    assert [one.reason for one in compare([killing], set(), rebooted=False).end] == [EndReason.KILLED]
    assert compare([killing], {killing.sandbox_id}, rebooted=False).delete == (killing.sandbox_id,)


ids = st.sampled_from([f"i{n}" for n in range(8)])
records = st.dictionaries(ids, st.sampled_from(sorted(LIVE))).map(
    lambda chosen: [sandbox(state, sandbox_id=one) for one, state in chosen.items()]
)


@given(live=records, reported=st.sets(ids.map(SandboxId)), rebooted=st.booleans())
def test_every_difference_has_exactly_one_answer(
    live: list[Sandbox], reported: set[SandboxId], *, rebooted: bool
) -> None:
    verdict = compare(live, reported, rebooted=rebooted)
    states = {one.sandbox_id: one.state for one in live}
    ended = {one.sandbox_id for one in verdict.end}

    assert ended.isdisjoint(reported)
    assert ended.isdisjoint(verdict.absent)
    on_disk = {SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING}
    assert all(states[one] not in on_disk for one in ended)
    unwanted = {one for one in reported if states.get(one, SandboxState.KILLING) is SandboxState.KILLING}
    assert set(verdict.delete) == unwanted
    running_elsewhere = {one for one, state in states.items() if state is SandboxState.RUNNING and one not in reported}
    assert running_elsewhere == ({one for one in ended if states[one] is SandboxState.RUNNING} | set(verdict.absent))
    if rebooted:
        assert verdict.absent == ()


def test_only_news_of_the_node_puts_a_sandbox_to_sleep_or_calls_a_stray() -> None:
    running = replace(sandbox(SandboxState.RUNNING, sandbox_id="i1"), generation=2)
    paused = replace(sandbox(SandboxState.PAUSED, sandbox_id="i2"), generation=3)

    def said(generation_of_1: int, generation_of_2: int) -> tuple[tuple[Sandbox, ...], tuple[Sandbox, ...]]:
        found = compare_sleep(
            [running, paused],
            {
                running.sandbox_id: seen(paused=True, generation=generation_of_1),
                paused.sandbox_id: seen(paused=False, generation=generation_of_2),
            },
        )
        return found.moved_on, found.strayed

    assert said(1, 2) == ((), ())
    assert said(3, 2) == ((running,), ())
    assert said(1, 4) == ((), (paused,))
    assert compare_sleep([running, paused], {}).moved_on == ()
    for generation, expected in ((running.generation, ()), (running.generation + 1, (running,))):
        rolled_back = seen(paused=False, generation=generation)
        assert compare_sleep([running], {running.sandbox_id: rolled_back}).moved_on == expected
