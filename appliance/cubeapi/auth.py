"""Who calls: a team by its API key, or the operator by the admin token.

A key comes in `X-API-Key`, or as a Bearer token. The operator sends `X-Admin-Token`, and `X-Team-ID` to act for a
team. A failure costs the client's address a token of a bucket; an empty one is 429.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from fastapi import Request

from appliance.clients.master import MasterClient
from appliance.common.clock import Clock
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi.failures import FailureLimit, client_of
from appliance.cubeapi.key_cache import KeyCache
from appliance.cubeapi.scopes import require_scope
from appliance.domain.errors import Forbidden, InvalidRequest, Unauthenticated
from appliance.domain.ids import API_KEY

OPERATOR = "operator"
"""In place of a key's id, where the operator acts for a team."""
_BURST = 20
_PER_S = 1.0


class Authenticator:
    """A FastAPI dependency that returns the caller's key and team, or raises.

    Only a key's SHA-256 is kept or sent. Each route needs a scope of the key: see `cubeapi/scopes.py`.
    """

    def __init__(
        self,
        master: MasterClient,
        *,
        clock: Clock,
        ttl: timedelta,
        admin_token: str | None = None,
        failures: FailureLimit | None = None,
    ) -> None:
        self._master = master
        self._clock = clock
        self._keys = KeyCache(master.resolve_key, clock=clock, ttl=ttl)
        self._admin_token = None if admin_token is None else hashlib.sha256(admin_token.encode()).digest()
        self._failures = failures or FailureLimit(burst=_BURST, per_s=_PER_S, clock=clock)

    async def __call__(self, request: Request) -> ResolvedKey:
        if "x-admin-token" in request.headers:
            return await self._operator_for_team(request)
        key = await self._caller(request)
        team_id = request.headers.get("x-team-id")
        if team_id is not None and team_id != key.team_id:
            raise Forbidden("the API key belongs to another team than X-Team-ID names")
        require_scope(key, request.scope["route"].path)
        return key

    async def operator(self, request: Request) -> None:
        """Let nobody but the operator pass; a dependency too."""
        client = client_of(request)
        self._failures.check(client)
        token = request.headers.get("x-admin-token", "")
        given = hashlib.sha256(token.encode()).digest()
        if self._admin_token is None or not hmac.compare_digest(given, self._admin_token):
            self._failures.failed(client)
            raise Unauthenticated("the operator's token is missing or wrong: send it in the X-Admin-Token header")

    async def close(self) -> None:
        await self._keys.close()

    async def _operator_for_team(self, request: Request) -> ResolvedKey:
        await self.operator(request)
        wanted = request.headers.get("x-team-id")
        if wanted is None:
            raise InvalidRequest("X-Admin-Token is the operator's; name the team to act for in X-Team-ID")
        team = await self._master.teams.get(team_id(wanted))
        return ResolvedKey(key_id=OPERATOR, team_id=team.team_id, team_slug=team.slug)

    async def _caller(self, request: Request) -> ResolvedKey:
        client = client_of(request)
        key = presented_key(request.headers)
        digest = None if key is None else hashlib.sha256(key.encode()).hexdigest()
        # A key that worked a moment ago goes on working behind an address that others fail from.
        if digest is None or not self._keys.has_seen(digest):
            self._failures.check(client)
        try:
            if digest is None:
                raise Unauthenticated("API key is missing: send it in the X-API-Key header, or set E2B_API_KEY")
            if key is None or not API_KEY.fullmatch(key):
                raise Unauthenticated("Invalid API key format: expected e2b_ and 40 hex digits")
            resolved = await self._keys.get(digest)
            if resolved.expires_at is not None and resolved.expires_at <= self._clock.now():
                raise Unauthenticated("the API key has expired; make another with `cubemastercli key create`")
        except Unauthenticated:
            self._failures.failed(client)
            raise
        return resolved


def presented_key(headers: Mapping[str, str]) -> str | None:
    """Return the API key of a request, from either header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return headers.get("x-api-key") or bearer or None


def team_id(text: str) -> str:
    """Return the id of a team in a path or header: teams have UUIDs."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise InvalidRequest("Invalid team ID") from error
