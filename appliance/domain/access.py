"""What an API key may be used for."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

from appliance.domain.errors import Forbidden, InvalidRequest


class Scope(StrEnum):
    SANDBOXES = "sandboxes"
    """Create, use, list and end sandboxes and their snapshots; read the team's metrics."""
    TEMPLATES = "templates"
    """Build, list, change and delete templates, which snapshots are too."""
    VOLUMES = "volumes"
    SECRETS = "secrets"
    KEYS = "keys"
    """Make, rename and revoke the team's API keys: whoever holds it administers the team."""


def parse_scopes(words: Collection[str]) -> frozenset[Scope]:
    """Return the scopes of that name, or raise InvalidRequest that lists those there are."""
    if not words:
        raise InvalidRequest("a key without any scope is of no use; leave `scopes` out for every scope")
    try:
        return frozenset(Scope(word) for word in words)
    except ValueError as error:
        raise InvalidRequest(f"{error}; scopes are {', '.join(Scope)}") from error


def granted_scopes(wanted: frozenset[Scope] | None, *, granter: frozenset[Scope] | None) -> frozenset[Scope] | None:
    """Return what a new key may do. None is everything; a key grants no more than it has.

    Not asking for anything in particular means as much as the granter has.
    """
    if granter is None:
        return wanted
    if wanted is None:
        return granter
    if beyond := wanted - granter:
        raise Forbidden(f"this API key lacks the scopes {', '.join(sorted(beyond))}, so it cannot grant them")
    return wanted


def granted_expiry(wanted: datetime | None, *, granter: datetime | None, now: datetime) -> datetime | None:
    """Return when a new key shall expire: never after the key that granted it."""
    if wanted is not None and wanted <= now:
        raise InvalidRequest("the time at which the key expires has passed already")
    if granter is None:
        return wanted
    if wanted is None:
        return granter
    if wanted > granter:
        raise Forbidden(f"this API key expires at {granter.isoformat()}, so it cannot grant a later time")
    return wanted
