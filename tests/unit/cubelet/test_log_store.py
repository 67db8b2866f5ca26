from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.clients.guest_logs import LogCursor
from appliance.contracts.node import SandboxLogEntry
from appliance.cubelet.log_store import LogQuery, LogStore

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def entry(second: int, message: str = "", level: str = "info") -> SandboxLogEntry:
    at = T0 + timedelta(seconds=second)
    return SandboxLogEntry(timestamp=at, level=level, logger="process", message=message or f"m{second}")


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path / "logs", max_bytes=20_000, total_bytes=50_000, keep=timedelta(hours=1))


def seconds(found: list[SandboxLogEntry]) -> list[int]:
    return [int((one.timestamp - T0).total_seconds()) for one in found]


def test_entries_are_read_from_both_ends(store: LogStore) -> None:
    store.append("isbx", [entry(second) for second in range(6)], LogCursor("e", 6))
    assert seconds(store.read("isbx", LogQuery())) == [0, 1, 2, 3, 4, 5]
    assert seconds(store.read("isbx", LogQuery(at=T0 + timedelta(seconds=2), limit=2))) == [2, 3]
    backward = LogQuery(at=T0 + timedelta(seconds=4), backward=True, limit=2)
    assert seconds(store.read("isbx", backward)) == [4, 3]
    assert store.read("iother", LogQuery()) == []


def test_levels_and_texts_are_looked_for(store: LogStore) -> None:
    store.append("isbx", [entry(0, "one", "debug"), entry(1, "two words", "error"), entry(2, "two")], LogCursor())
    assert seconds(store.read("isbx", LogQuery(levels=("warn", "error")))) == [1]
    assert seconds(store.read("isbx", LogQuery(search="two"))) == [1, 2]


def test_a_log_never_exceeds_its_limit_and_keeps_the_latest(store: LogStore, tmp_path: Path) -> None:
    for second in range(1000):
        store.append("isbx", [entry(second, "x" * 100)], LogCursor("e", second))
        assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) < 21_000
    found = seconds(store.read("isbx", LogQuery()))
    assert found[-1] == 999
    assert found == list(range(found[0], 1000))
    assert store.cursor("isbx") == LogCursor("e", 999)


def test_a_line_cut_short_by_a_crash_spoils_none_but_itself(store: LogStore, tmp_path: Path) -> None:
    store.append("isbx", [entry(0)], LogCursor("e", 1))
    with (tmp_path / "logs/isbx.jsonl").open("a") as file:
        file.write('\n{"timestamp": "20')
    store.append("isbx", [entry(1)], LogCursor("e", 2))
    assert seconds(store.read("isbx", LogQuery())) == [0, 1]
    assert store.cursor("isbx") == LogCursor("e", 2)


def test_lines_end_where_json_ends_them(store: LogStore) -> None:
    strange = "a\x0b\x1c\x85\u2028b\r\nc"
    store.append("isbx", [entry(0, strange)], LogCursor())
    assert [one.message for one in store.read("isbx", LogQuery())] == [strange]


def test_ended_sandboxes_logs_are_deleted_after_a_while_and_live_ones_are_not(store: LogStore, tmp_path: Path) -> None:
    for name in ("iended", "ilive"):
        store.append(name, [entry(0)], LogCursor())
        os.utime(tmp_path / f"logs/{name}.jsonl", (T0.timestamp(), T0.timestamp()))
    store.sweep({"ilive"}, T0 + timedelta(minutes=59))
    assert seconds(store.read("iended", LogQuery())) == [0]
    store.sweep({"ilive"}, T0 + timedelta(minutes=61))
    assert store.read("iended", LogQuery()) == []
    assert seconds(store.read("ilive", LogQuery())) == [0]


def test_all_logs_together_are_bounded_the_oldest_ended_ones_go_first(store: LogStore, tmp_path: Path) -> None:
    for number in range(8):
        store.append(f"i{number}", [entry(0, "x" * 9000)], LogCursor())
        at = T0.timestamp() + number
        os.utime(tmp_path / f"logs/i{number}.jsonl", (at, at))
    store.sweep({"i0"}, T0)
    left = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert left == ["i0.jsonl", "i4.jsonl", "i5.jsonl", "i6.jsonl", "i7.jsonl"]


@pytest.mark.parametrize("name", ["../etc", "a/b", "", "A", "i" * 65])
def test_names_that_are_no_sandboxes_reach_no_file(store: LogStore, name: str) -> None:
    with pytest.raises(ValueError, match="not the id"):
        store.read(name, LogQuery())
