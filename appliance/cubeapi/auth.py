"""From `X-API-Key` to the team it belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from fastapi import Request

from appliance.clients.master import MasterClient
from appliance.common.clock import Clock
from appliance.contracts.master import ResolvedKey
from appliance.domain.errors import Unauthenticated
from appliance.domain.ids import API_KEY

_MAX_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class _Cached:
    key: ResolvedKey
    until: float


class Authenticator:
    """Asks CubeMaster who a key is, and remembers the answer for `ttl`: a revoked key is dead after that.

    Only the key's SHA-256 is kept or sent. Unknown keys are not remembered.
    """

    def __init__(self, master: MasterClient, *, clock: Clock, ttl: timedelta) -> None:
        self._master = master
        self._clock = clock
        self._ttl = ttl.total_seconds()
        self._cache: dict[str, _Cached] = {}

    async def __call__(self, request: Request) -> ResolvedKey:
        """Return the caller's key and team; usable as a FastAPI dependency. Raises Unauthenticated."""
        key = request.headers.get("x-api-key")
        if not key:
            raise Unauthenticated("API key is missing: send it in the X-API-Key header, or set E2B_API_KEY")
        if not API_KEY.fullmatch(key):
            raise Unauthenticated("Invalid API key format: expected e2b_ and 40 hex digits")
        digest = hashlib.sha256(key.encode()).hexdigest()
        now = self._clock.monotonic()
        cached = self._cache.get(digest)
        if cached is not None and cached.until > now:
            return cached.key
        try:
            resolved = await self._master.resolve_key(digest)
        except Unauthenticated:
            self._cache.pop(digest, None)
            raise
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[digest] = _Cached(key=resolved, until=now + self._ttl)
        return resolved
