"""Each hostile layer breaks its rule, seen from inside the worker. The whole import is tested in tests/integration."""

from __future__ import annotations

import gzip

import pytest

from tests.support.hostile_layers import HOSTILE, Hostile
from tests.support.merging import job, rejected_job


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_layer_is_refused_by_its_rule(hostile: Hostile) -> None:
    stored = hostile.stored or [gzip.compress(layer, 1) for layer in hostile.layers]
    with job(hostile.layers, stored=stored, limits=hostile.limits) as work:
        assert rejected_job(work) == hostile.rule
