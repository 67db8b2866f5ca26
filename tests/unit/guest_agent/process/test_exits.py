from __future__ import annotations

from pathlib import Path

import pytest

from guest_agent.process.exits import RECORD, find_exit


def test_the_latest_record_since_a_moment_counts(tmp_path: Path) -> None:
    path = tmp_path / "exits"
    records = [(7, 0, 100), (8, 9, 200), (7, 256, 300), (7, 512, 250)]
    path.write_bytes(b"".join(RECORD.pack(*record) for record in records) + b"part")
    assert find_exit(7, since_ms=0, path=path) == 256
    assert find_exit(8, since_ms=200, path=path) == 9
    assert find_exit(8, since_ms=201, path=path) is None
    assert find_exit(9, since_ms=0, path=path) is None


def test_without_our_process_1_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_exit(1, since_ms=0, path=tmp_path / "exits")
