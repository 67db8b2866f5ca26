"""Forget what the maps hold of flows that ended. The programs ignore expired sessions anyway; this frees their room."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from typing import Final

from appliance.cubevs.maps import Closed, Config, Maps, PolicyKey, Session, SessionKey, unpack_index

_NS_PER_S: Final = 1_000_000_000


def is_expired(key: SessionKey, session: Session, config: Config, now_ns: int) -> bool:
    """Decide as the programs do (session.h)."""
    limit_s = config.datagram_idle_s
    if key.protocol == socket.IPPROTO_TCP:
        both = Closed.BY_GUEST | Closed.BY_PEER
        closed = bool(session.closed & Closed.RESET) or session.closed & both == both
        limit_s = config.tcp_closed_s if closed else config.tcp_idle_s
    return now_ns - session.seen_ns > limit_s * _NS_PER_S


def stale_policy(keys: Iterable[bytes], generations: Mapping[int, int]) -> list[bytes]:
    """Return the policy entries that no tap looks at: `generations` has the one in force by ifindex."""
    found = []
    for packed in keys:
        key = PolicyKey.unpack(packed)
        if generations.get(key.ifindex) != key.generation:
            found.append(packed)
    return found


def reap_sessions(maps: Maps, config: Config) -> int:
    """Remove expired sessions of every tap and return how many. Blocks for microseconds a session."""
    removed = 0
    for tap in list(maps.taps.keys()):
        sessions = maps.sessions_of(unpack_index(tap))
        if sessions is None:
            continue
        for packed in list(sessions.keys()):
            value = sessions.get(packed)
            now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            if value and is_expired(SessionKey.unpack(packed), Session.unpack(value), config, now_ns):
                sessions.delete(packed)
                removed += 1
        sessions.close()
    return removed
