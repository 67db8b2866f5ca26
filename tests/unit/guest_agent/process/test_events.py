from __future__ import annotations

import pytest

from guest_agent.process.events import Ended, ended


@pytest.mark.parametrize(
    ("wait_status", "expected", "error"),
    [
        (0, Ended(0, exited=True, status="exit status 0"), None),
        (1 << 8, Ended(1, exited=True, status="exit status 1"), "exit status 1"),
        (255 << 8, Ended(255, exited=True, status="exit status 255"), "exit status 255"),
        (9, Ended(-1, exited=False, status="signal: killed"), "signal: killed"),
        (11 | 0x80, Ended(-1, exited=False, status="signal: segmentation fault (core dumped)"), None),
        (40, Ended(-1, exited=False, status="signal: signal 40"), None),
    ],
)
def test_ends_are_worded_like_go(wait_status: int, expected: Ended, error: str | None) -> None:
    assert ended(wait_status) == expected
    if error is not None or expected.exit_code == 0:
        assert expected.error == error
