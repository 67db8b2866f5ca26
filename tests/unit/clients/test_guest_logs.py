"""A guest's log is its tenant's text: nothing that it says is believed unread."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.clients.guest_logs import LogCursor, parse_log_end, parse_log_page
from appliance.domain.errors import GuestFailure

ENTRY = {"at_ns": 1, "level": "warn", "logger": "process", "message": "m", "fields": {"pid": "7"}}


def page(**changes: Any) -> bytes:
    return json.dumps({"epoch": "e1", "next": 3, "missed": 0, "entries": [ENTRY], **changes}).encode()


def test_a_page_is_parsed() -> None:
    parsed = parse_log_page(page())
    assert parsed.cursor == LogCursor("e1", 3)
    (entry,) = parsed.entries
    assert (entry.at_ns, entry.level, entry.message, dict(entry.fields)) == (1, "warn", "m", {"pid": "7"})


def test_texts_are_cut_and_unknown_levels_are_info() -> None:
    huge = {
        "at_ns": 10**30,
        "level": "shout",
        "logger": "l" * 1000,
        "message": "m" * 100_000 + "\ud800",
        "fields": {f"k{number}" + "k" * 1000: "\ud800" * 5000 for number in range(100)},
    }
    (entry,) = parse_log_page(page(entries=[huge])).entries
    assert (entry.level, len(entry.logger), len(entry.message)) == ("info", 64, 4096)
    assert len(entry.fields) == 16
    assert {len(name) for name in entry.fields} == {64}
    assert {len(value) for value in entry.fields.values()} == {1024}
    json.dumps(dict(entry.fields)).encode("ascii")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        page(epoch="../x"),
        page(epoch=""),
        page(next=-1),
        page(next=True),
        page(next=1 << 60),
        page(missed="1"),
        page(entries={}),
        page(entries=["x"]),
        page(entries=[{**ENTRY, "message": 1}]),
        page(entries=[{**ENTRY, "fields": {"a": 1}}]),
        page(entries=[{**ENTRY, "at_ns": 1.5}]),
        page(entries=[{}] * 20_001),
    ],
    ids=range(16),
)
def test_nonsense_is_a_failure_of_the_guest(nonsense: bytes) -> None:
    with pytest.raises(GuestFailure):
        parse_log_page(nonsense)


@pytest.mark.parametrize("header", [None, "", "e", "e/", "e/-1", "e/" + "9" * 16, "../1", "e/1/2", "e/²"])
def test_an_agent_that_keeps_no_log_has_no_end(header: str | None) -> None:
    assert parse_log_end(header) is None
    assert parse_log_end("17ab/12") == LogCursor("17ab", 12)
