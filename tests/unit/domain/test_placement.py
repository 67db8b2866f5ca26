from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import NoCapacity
from appliance.domain.ids import NodeId
from appliance.domain.placement import Candidate, Resources, only, rank

SMALL = Resources(vcpus=1, memory_mib=512)


def candidate(name: str, *, vcpus: int = 0, memory_mib: int = 0, pooled: int = 0, disk: int = 10_000) -> Candidate:
    return Candidate(
        node_id=NodeId(name),
        capacity=Resources(8, 8192),
        reserved=Resources(vcpus, memory_mib),
        disk_free_mib=disk,
        pooled=pooled,
    )


def names(ranked: Sequence[Candidate]) -> list[str]:
    return [one.node_id for one in ranked]


def test_the_emptiest_node_comes_first() -> None:
    ranked = rank(SMALL, disk_mib=1, candidates=[candidate("a", vcpus=4), candidate("b", vcpus=1), candidate("c")])
    assert names(ranked) == ["c", "b", "a"]


def test_a_node_with_a_pooled_vm_beats_an_emptier_one() -> None:
    assert names(rank(SMALL, disk_mib=1, candidates=[candidate("a"), candidate("b", vcpus=4, pooled=1)])) == ["b", "a"]


def test_the_fuller_dimension_counts() -> None:
    ranked = rank(SMALL, disk_mib=1, candidates=[candidate("a", memory_mib=7000), candidate("b", vcpus=4)])
    assert names(ranked) == ["b", "a"]


def test_no_node_with_the_template_is_told_apart_from_no_room() -> None:
    with pytest.raises(NoCapacity, match="no ready node"):
        rank(SMALL, disk_mib=1, candidates=[])
    with pytest.raises(NoCapacity, match="none of 1 nodes"):
        rank(SMALL, disk_mib=1, candidates=[candidate("a", vcpus=8)])
    with pytest.raises(NoCapacity, match="disk"):
        rank(SMALL, disk_mib=11_000, candidates=[candidate("a")])


def test_a_sandbox_with_volumes_goes_to_their_node_alone() -> None:
    nodes = [candidate("a"), candidate("b", vcpus=4)]
    assert names(rank(SMALL, disk_mib=1, candidates=only(NodeId("b"), nodes))) == ["b"]
    with pytest.raises(NoCapacity, match="node 'c', which has the volumes"):
        only(NodeId("c"), nodes)


candidates = st.lists(
    st.builds(
        Candidate,
        node_id=st.text("abc", min_size=1, max_size=3).map(NodeId),
        capacity=st.builds(Resources, vcpus=st.integers(1, 64), memory_mib=st.integers(128, 65_536)),
        reserved=st.builds(Resources, vcpus=st.integers(0, 80), memory_mib=st.integers(0, 70_000)),
        disk_free_mib=st.integers(0, 5_000),
        pooled=st.integers(0, 3),
    ),
    max_size=8,
)
requests = st.builds(Resources, vcpus=st.integers(1, 8), memory_mib=st.integers(128, 8192))


@given(request=requests, disk=st.integers(1, 4_000), nodes=candidates)
def test_nothing_is_placed_where_it_does_not_fit_and_nothing_that_fits_is_left_out(
    request: Resources, disk: int, nodes: list[Candidate]
) -> None:
    fitting = [one for one in nodes if one.fits(request, disk_mib=disk)]
    try:
        ranked = rank(request, disk_mib=disk, candidates=nodes)
    except NoCapacity:
        assert not fitting
        return
    assert sorted(ranked, key=str) == sorted(fitting, key=str)
    for one in ranked:
        assert one.load_after(request) <= 1


@given(request=requests, nodes=candidates, seed=st.randoms())
def test_the_order_of_the_candidates_does_not_matter(
    request: Resources, nodes: list[Candidate], seed: random.Random
) -> None:
    unique = list({one.node_id: one for one in nodes}.values())
    shuffled = unique.copy()
    seed.shuffle(shuffled)
    try:
        expected = rank(request, disk_mib=1, candidates=unique)
    except NoCapacity:
        return
    assert rank(request, disk_mib=1, candidates=shuffled) == expected
