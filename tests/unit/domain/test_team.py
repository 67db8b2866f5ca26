from __future__ import annotations

import pytest

from appliance.domain.errors import InvalidRequest
from appliance.domain.team import Limits, Usage, exceeded, parse_slug

USED = Usage(sandboxes=3, vcpus=6, memory_mib=1024, disk_mib=None, builds=None, volumes=None)


def test_a_teams_own_limit_beats_the_default_and_zero_is_none() -> None:
    held = Limits(sandboxes=5, vcpus=0).or_default(Limits(sandboxes=1, vcpus=2, disk_mib=7))
    assert held == Limits(sandboxes=5, vcpus=None, disk_mib=7)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(sandboxes=2), "2 concurrent sandboxes"),
        (Limits(sandboxes=3, vcpus=5), "5 vCPUs"),
        (Limits(memory_mib=1023), "1023 MiB of memory"),
    ],
)
def test_the_exceeded_limit_is_named(limits: Limits, words: str) -> None:
    assert words in (exceeded(limits, USED) or "")


def test_nothing_is_exceeded_at_the_limit_or_where_nobody_looked() -> None:
    assert exceeded(Limits(sandboxes=3, vcpus=6, memory_mib=1024, disk_mib=1, builds=1), USED) is None


@pytest.mark.parametrize("slug", ["", "A", "a/b", "a" * 65, "ä"])
def test_a_slug_is_a_word_of_template_names(slug: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_slug(slug)
