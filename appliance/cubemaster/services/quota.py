"""What a team may have at one time, held by the rows themselves: there is no counter that could drift from them."""

from __future__ import annotations

from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.domain.errors import InvalidRequest, QuotaExceeded
from appliance.domain.ids import TeamId


class Quota:
    def __init__(self, *, concurrent_sandboxes: int) -> None:
        self._concurrent_sandboxes = concurrent_sandboxes

    def check_copies(self, count: int) -> None:
        """Raise InvalidRequest where that many copies of a sandbox could never run beside it."""
        if count >= self._concurrent_sandboxes:
            raise InvalidRequest(
                f"Count must be lower than the maximum number of concurrent sandboxes ({self._concurrent_sandboxes})"
            )

    def check(self, uow: UnitOfWork, team_id: TeamId) -> None:
        """Raise QuotaExceeded if the team has more than it may, what this transaction has written included.

        Whoever makes a sandbox run locks the team, writes the sandbox's row and checks, in one transaction: the next
        one waits at the lock until that row is there, so exactly as many succeed as there is room for. Checked after
        the row was written, a repeated create of one idempotency key finds its twin even where nothing more fits.
        """
        if uow.sandboxes.concurrent_count(team_id) > self._concurrent_sandboxes:
            raise QuotaExceeded(
                f"the team has reached its maximum of {self._concurrent_sandboxes} concurrent sandboxes; "
                "kill one, or have the operator raise quotas.concurrent_sandboxes"
            )
