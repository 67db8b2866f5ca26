"""E2B's public shapes of keys and teams, from and to CubeMaster's."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from appliance.contracts import e2b_access as public
from appliance.contracts import master, teams
from appliance.domain.access import Scope, granted_expiry, granted_scopes, parse_scopes
from appliance.domain.errors import InvalidRequest


def new_key(body: public.NewTeamApiKey, *, granter: master.ResolvedKey, now: datetime) -> master.NewKey:
    """Return the key to make: it may do no more, and for no longer, than the key that asks for it."""
    if body.expiresAt is not None and body.expiresAt.tzinfo is None:
        raise InvalidRequest("expiresAt has no time zone; add one, such as Z")
    has = None if granter.scopes is None else frozenset(Scope(one) for one in granter.scopes)
    asked = None if body.scopes is None else parse_scopes(body.scopes)
    scopes = granted_scopes(asked, granter=has)
    return master.NewKey(
        team_id=granter.team_id,
        name=body.name,
        scopes=None if scopes is None else tuple(sorted(scopes)),
        expires_at=granted_expiry(body.expiresAt, granter=granter.expires_at, now=now),
    )


def team_key(view: master.KeyView) -> public.TeamApiKey:
    return public.TeamApiKey.model_validate(_team_key(view))


def created_key(created: master.CreatedKey) -> public.CreatedTeamApiKey:
    return public.CreatedTeamApiKey.model_validate({**_team_key(created), "key": created.key})


def _team_key(view: master.KeyView) -> dict[str, object]:
    shown, _, end = view.mask.partition("...")
    return {
        "id": view.key_id,
        "name": view.name,
        "mask": public.KeyMask(maskedValuePrefix=shown.removeprefix("e2b_"), maskedValueSuffix=end),
        "createdAt": view.created_at,
        "lastUsed": view.last_used_at,
        "scopes": tuple(Scope) if view.scopes is None else view.scopes,
        "expiresAt": view.expires_at,
    }


def key_id(text: str) -> str:
    """Return the id of a key in a path."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise InvalidRequest("Invalid API key ID") from error


def team_metric(metric: teams.TeamMetric) -> public.TeamMetric:
    return public.TeamMetric(
        timestamp=metric.at,
        timestampUnix=int(metric.at.timestamp()),
        concurrentSandboxes=metric.concurrent_sandboxes,
        sandboxStartRate=metric.start_rate,
    )


def max_team_metric(metric: teams.TeamMetricMax) -> public.MaxTeamMetric:
    return public.MaxTeamMetric(timestamp=metric.at, timestampUnix=int(metric.at.timestamp()), value=metric.value)
