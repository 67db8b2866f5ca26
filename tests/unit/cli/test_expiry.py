from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from appliance.cli.expiry import parse_expiry

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30d", NOW + timedelta(days=30)),
        ("12h", NOW + timedelta(hours=12)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02T03:04:05+01:00", datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)),
    ],
)
def test_spans_and_times_are_read(text: str, at: datetime) -> None:
    assert parse_expiry(text, now=NOW) == at


@pytest.mark.parametrize("text", ["", "soon", "0d", "2025-12-31", "999999y", "-1d"])
def test_what_has_passed_or_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"passed|neither|longer"):
        parse_expiry(text, now=NOW)
