"""What a loop does while the database is away: nothing, until it is back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from appliance.domain.errors import Unavailable


def while_available(step: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return `step` without its complaint about an outage, which `Database` logs once for all loops."""

    async def guarded() -> None:
        try:
            await step()
        except Unavailable:
            return

    return guarded
