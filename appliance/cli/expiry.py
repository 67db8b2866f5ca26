"""How long something is valid, as operators write it: `30d`, `12h`, or a time such as 2027-01-31."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SPAN = re.compile(r"(?P<number>\d{1,6})(?P<unit>[mhdwy])")
_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}


def parse_expiry(text: str, *, now: datetime) -> datetime:
    """Return the end of a span from now, or the time itself; one without a zone is UTC. Raises ValueError."""
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        length = int(span["number"]) * _UNITS[span["unit"]]
        if length > timedelta(days=36500):
            raise ValueError(
                f"'{text}' is longer than a hundred years; leave the option out for a key that never expires"
            )
        at = now + length
    else:
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError:
            raise ValueError(f"'{text}' is neither a span such as 30d or 12h nor a time such as 2027-01-31") from None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
    if at <= now:
        raise ValueError(f"'{text}' has passed already")
    return at
