"""What a team's sandboxes did over time: how many ran at once, and how many started a second."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from appliance.common.clock import Clock
from appliance.contracts.teams import TeamMetric, TeamMetricMax, TeamMetricName
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.team_metrics import Change, Window
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.domain.errors import InvalidRequest

_DEFAULT_SPAN = timedelta(days=7)
_LONGEST = timedelta(days=31)
_MOST_BUCKETS = 500
_FINEST = timedelta(seconds=15)
"""Over how long a rate is taken at least: of a shorter time one start would be a burst."""


class TeamMetrics:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def between(self, team_id: str, *, start: datetime | None, end: datetime | None) -> list[TeamMetric]:
        """Return buckets of equal length that fill the time, oldest first."""
        window = self._window(start, end)

        def work(uow: UnitOfWork) -> tuple[int, dict[int, Change]]:
            return uow.team_metrics.running_at(team_id, window.start), uow.team_metrics.changes(team_id, window)

        return list(_buckets(window, *await self._database.transact(work)))

    async def highest(
        self, team_id: str, *, metric: TeamMetricName, start: datetime | None, end: datetime | None
    ) -> TeamMetricMax:
        """Return the highest value in a time, and when it was first reached."""
        window = self._window(start, end)

        def most_running(uow: UnitOfWork) -> TeamMetricMax:
            running = uow.team_metrics.running_at(team_id, window.start)
            peak = uow.team_metrics.peak(team_id, window)
            if peak is None or peak[1] <= 0:
                return TeamMetricMax(at=window.start, value=running)
            return TeamMetricMax(at=peak[0], value=running + peak[1])

        def fastest(uow: UnitOfWork) -> TeamMetricMax:
            fine = Window(window.start, window.end, _FINEST)
            bucket, starts = uow.team_metrics.fastest(team_id, fine) or (0, 0)
            return TeamMetricMax(at=fine.at(bucket), value=starts / _FINEST.total_seconds())

        return await self._database.transact(most_running if metric == "concurrent_sandboxes" else fastest)

    def _window(self, start: datetime | None, end: datetime | None) -> Window:
        now = self._clock.now()
        end = min(now, end) if end is not None else now
        start = start if start is not None else end - _DEFAULT_SPAN
        if start >= end:
            raise InvalidRequest("start must be before end, and before now")
        if end - start > _LONGEST:
            raise InvalidRequest(f"the time from start to end must not be longer than {_LONGEST.days} days")
        return Window(start, end, _step(end - start))


def _step(span: timedelta) -> timedelta:
    """Return the length of a bucket, in whole multiples of the finest."""
    return _FINEST * max(1, -(-span // (_FINEST * _MOST_BUCKETS)))


def _buckets(window: Window, running: int, changes: dict[int, Change]) -> Sequence[TeamMetric]:
    count = -(-(window.end - window.start) // window.step)
    shown, first = [], running
    for bucket in range(count):
        change = changes.get(bucket, Change(0, running - first, 0))
        shown.append(
            TeamMetric(
                at=window.at(bucket),
                # At least what it began with, which may be more than after each of its changes.
                concurrent_sandboxes=max(0, running, first + change.highest),
                start_rate=change.starts / window.step.total_seconds(),
            )
        )
        running += change.delta
    return shown
