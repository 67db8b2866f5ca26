"""How many sandboxes of a team ran when, out of the events: nothing is counted apart from what happened.

A sandbox runs from each `sandbox_started` or `sandbox_resumed` to the next `sandbox_paused` or `sandbox_ended` of its
own. Only the window's events are summed, and only in the database; what ran when it began comes from the rows of
sandboxes that had not ended by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, text

from appliance.cubemaster.persistence.tables import UtcDateTime

_RUNS = "'sandbox_started', 'sandbox_resumed'"
_STOPS = "'sandbox_paused', 'sandbox_ended'"
_TIMES = (bindparam("start", type_=UtcDateTime), bindparam("end", type_=UtcDateTime))

_RUNNING_AT = text(f"""
    SELECT COUNT(*)
    FROM (
        SELECT (
            SELECT e.kind FROM events e
            WHERE e.sandbox_id = s.sandbox_id AND e.at <= :start AND e.kind IN ({_RUNS}, {_STOPS})
            ORDER BY e.event_id DESC LIMIT 1
        ) AS last
        FROM sandboxes s
        WHERE s.team_id = :team AND (s.ended_at IS NULL OR s.ended_at > :start)
    ) AS known
    WHERE last IN ({_RUNS})
""").bindparams(_TIMES[0])

# An end counts only for a sandbox that ran: one that was paused has been taken off already, one that failed to start
# was never put on.
_CHANGES = f"""
    WITH changes AS (
        SELECT at, event_id, kind, CASE
            WHEN kind IN ({_RUNS}) THEN 1
            WHEN (
                SELECT p.kind FROM events p
                WHERE p.sandbox_id = e.sandbox_id AND p.event_id < e.event_id AND p.kind IN ({_RUNS}, {_STOPS})
                ORDER BY p.event_id DESC LIMIT 1
            ) IN ({_RUNS}) THEN -1
            ELSE 0
        END AS delta
        FROM events e
        WHERE e.team_id = :team AND e.at > :start AND e.at <= :end AND e.kind IN ({_RUNS}, {_STOPS})
    ),
    counted AS (
        SELECT at, event_id, kind, delta, SUM(delta) OVER (ORDER BY at, event_id) AS total,
            FLOOR(TIMESTAMPDIFF(MICROSECOND, :start, at) / :step) AS bucket
        FROM changes
    )
"""

_BY_BUCKET = text(
    _CHANGES
    + f"""
    SELECT bucket, SUM(delta) AS delta, MAX(total) AS highest, SUM(kind IN ({_RUNS})) AS starts
    FROM counted GROUP BY bucket ORDER BY bucket
"""
).bindparams(*_TIMES)
_PEAK = (
    text(_CHANGES + " SELECT at, total FROM counted ORDER BY total DESC, at LIMIT 1")
    .bindparams(*_TIMES)
    .columns(at=UtcDateTime)
)
_FASTEST = text(
    _CHANGES
    + f"""
    SELECT bucket, SUM(kind IN ({_RUNS})) AS starts FROM counted GROUP BY bucket ORDER BY starts DESC, bucket LIMIT 1
"""
).bindparams(*_TIMES)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, its beginning not included, cut into buckets."""

    start: datetime
    end: datetime
    step: timedelta

    def at(self, bucket: int) -> datetime:
        return self.start + bucket * self.step


@dataclass(frozen=True, slots=True)
class Change:
    """What happened within one bucket."""

    delta: int
    highest: int
    """Of the running total since the window began."""
    starts: int


class TeamMetricRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def running_at(self, team_id: str, at: datetime) -> int:
        return int(self._connection.scalar(_RUNNING_AT, {"team": team_id, "start": at}) or 0)

    def changes(self, team_id: str, window: Window) -> dict[int, Change]:
        """Return what happened, by the number of the bucket; buckets in which nothing did are absent."""
        rows = self._connection.execute(_BY_BUCKET, _parameters(team_id, window))
        return {int(row.bucket): Change(int(row.delta), int(row.highest), int(row.starts)) for row in rows}

    def peak(self, team_id: str, window: Window) -> tuple[datetime, int] | None:
        """Return when the most ran and how many more that is than at the window's beginning; None without events."""
        row = self._connection.execute(_PEAK, _parameters(team_id, window)).one_or_none()
        return (row.at, int(row.total)) if row else None

    def fastest(self, team_id: str, window: Window) -> tuple[int, int] | None:
        """Return the bucket with the most starts, and how many."""
        row = self._connection.execute(_FASTEST, _parameters(team_id, window)).one_or_none()
        return (int(row.bucket), int(row.starts)) if row else None


def _parameters(team_id: str, window: Window) -> dict[str, object]:
    return {
        "team": team_id,
        "start": window.start,
        "end": window.end,
        "step": int(window.step / timedelta(microseconds=1)),
    }
