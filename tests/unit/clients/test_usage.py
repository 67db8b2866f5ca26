"""What an agent says of its machine comes from the tenant: only numbers that can be are taken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.clients.guest_reports import Usage, parse_usage
from appliance.domain.errors import GuestFailure
from guest_agent.logs.ring import LogRing
from guest_agent.metrics import Metrics
from tests.support.fake_guests import USAGE


def test_what_the_agent_sends_is_read() -> None:
    assert parse_usage(json.dumps(USAGE).encode()) == Usage(
        cpu_count=2,
        cpu_used_pct=12.5,
        memory_used=1000,
        memory_total=4000,
        memory_cache=500,
        disk_used=10,
        disk_total=100,
    )


def test_the_real_agents_report_is_believed() -> None:
    usage = parse_usage(json.dumps(Metrics(LogRing()).sample()).encode())
    assert 0 < usage.memory_used < usage.memory_total
    assert 0 < usage.disk_used <= usage.disk_total


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cpu_count", 0),
        ("cpu_count", 2000),
        ("cpu_count", True),
        ("cpu_used_pct", -1),
        ("cpu_used_pct", 201),
        ("cpu_used_pct", float("nan")),
        ("cpu_used_pct", float("inf")),
        ("cpu_used_pct", "12"),
        ("mem_used", -1),
        ("mem_used", 1.5),
        ("disk_total", 1 << 63),
        ("disk_used", None),
    ],
)
def test_a_number_that_cannot_be_is_refused(key: str, value: Any) -> None:
    with pytest.raises(GuestFailure, match="impossible"):
        parse_usage(json.dumps({**USAGE, key: value}).encode())


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"7", b"{}", b"\xff", b"[" * 4000, b'{"cpu_count": ' + b"9" * 4500 + b"}"]
)
def test_what_is_no_report_is_refused(payload: bytes) -> None:
    with pytest.raises(GuestFailure, match="make no sense"):
        parse_usage(payload)
