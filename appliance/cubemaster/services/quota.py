"""What a team may have at one time, held by the rows themselves: there is no counter that could drift from them."""

from __future__ import annotations

from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.domain.errors import InvalidRequest, QuotaExceeded
from appliance.domain.ids import TeamId
from appliance.domain.team import Limits, Usage, exceeded


class Quota:
    def __init__(self, defaults: Limits) -> None:
        self._defaults = defaults

    @property
    def defaults(self) -> Limits:
        """What a team may have that has no limits of its own."""
        return self._defaults

    def check_copies(self, uow: UnitOfWork, team_id: TeamId, count: int) -> None:
        """Raise InvalidRequest where that many copies of a sandbox could never run beside it."""
        own, _ = uow.teams.standing_of_sandboxes(team_id, self._defaults)
        limit = own.or_default(self._defaults).sandboxes
        if limit is not None and count >= limit:
            raise InvalidRequest(f"Count must be lower than the maximum number of concurrent sandboxes ({limit})")

    def check(self, uow: UnitOfWork, team_id: TeamId) -> None:
        """Raise QuotaExceeded if the team's sandboxes take more than they may, what this transaction wrote included.

        Whoever makes a sandbox run locks the team, writes the sandbox's row and checks, in one transaction: the next
        one waits at the lock until that row is there, so exactly as many succeed as there is room for. Checked after
        the row was written, a repeated create of one idempotency key finds its twin even where nothing more fits.
        """
        self._refuse(*uow.teams.standing_of_sandboxes(team_id, self._defaults))

    def check_builds(self, uow: UnitOfWork, team_id: TeamId) -> None:
        """Raise QuotaExceeded if the team has more builds under way than it may; the same rules hold."""
        self._refuse(*uow.teams.standing_of_builds(team_id, self._defaults))

    def check_volumes(self, uow: UnitOfWork, team_id: TeamId) -> None:
        """Raise QuotaExceeded if the team has more volumes, or disk in them, than it may; the same rules hold."""
        self._refuse(*uow.teams.standing_of_volumes(team_id, self._defaults))

    def _refuse(self, own: Limits, usage: Usage) -> None:
        beyond = exceeded(own.or_default(self._defaults), usage)
        if beyond is not None:
            raise QuotaExceeded(
                f"the team has reached its maximum of {beyond}; "
                "end some, or have the operator raise it with `cubemastercli team set-quota`"
            )
