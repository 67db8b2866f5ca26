"""How often one client may fail to say who it is."""

from __future__ import annotations

import math
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from fastapi import Request

from appliance.common.clock import Clock
from appliance.domain.errors import RateLimited

_REMEMBERED = 10_000
_IPV6_CUSTOMER = 64
"""Bits of an IPv6 address that tell one customer from another: the rest is theirs to vary."""


def client_of(request: Request) -> str:
    """Return whom to count for a request: the address that CubeProxy saw, else the connection's own.

    CubeProxy adds the address it saw at the end of X-Forwarded-For; what stands before it is the client's own story.
    """
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    address = forwarded or (request.client.host if request.client else "")
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return str(int(parsed) >> (128 - _IPV6_CUSTOMER))
    return str(parsed)


class FailureLimit:
    """A bucket of tokens for each client: a failure takes one, and time gives them back."""

    def __init__(self, *, burst: int, per_s: float, clock: Clock) -> None:
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Raise RateLimited where the client has failed too often."""
        tokens = self._tokens(client)
        if tokens < 1:
            wait = math.ceil((1 - tokens) / self._per_s)
            raise RateLimited("Too many failed attempts to authenticate; wait, and check the key", retry_after_s=wait)

    def failed(self, client: str) -> None:
        self._buckets[client] = (self._tokens(client) - 1, self._clock.monotonic())
        self._buckets.move_to_end(client)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)

    def _tokens(self, client: str) -> float:
        tokens, at = self._buckets.get(client, (float(self._burst), 0.0))
        return min(self._burst, tokens + (self._clock.monotonic() - at) * self._per_s)
