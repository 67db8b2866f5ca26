"""Cubelet's way to what is on a volume: E2B's content API, which the agent of the guest that has it answers.

Both bodies are streamed. What comes back is written by an untrusted guest, and no more than its status and its body is
passed on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import IPv4Address

from appliance.common.http import Answer, InternalClient
from appliance.domain.errors import GuestFailure, Unavailable
from appliance.domain.network import AGENT_PORT

_STATUSES = frozenset({200, 201, 204, 400, 404, 409, 413, 500, 507})


@asynccontextmanager
async def volume_content(
    address: IPv4Address,
    slot: int,
    *,
    method: str,
    kind: str,
    params: Sequence[tuple[str, str]],
    body: AsyncIterator[bytes] | None,
    idle: timedelta,
) -> AsyncIterator[Answer]:
    """Ask the guest at `address` about the volume in `slot`. Raises GuestFailure, also while pieces are read.

    `idle` is how long either body may stand still.
    """
    # A session of its own: no connection of ours stays open in a guest that has an owner.
    http = InternalClient(f"http://{address}:{AGENT_PORT}", service="guest agent")
    asked = http.exchange(
        method,
        f"/volumes/{kind}",
        idle=idle,
        params=[*((name, value) for name, value in params if name != "slot"), ("slot", str(slot))],
        headers={"Content-Type": "application/octet-stream"},
        body=body,
    )
    try:
        async with asked as answer:
            if answer.status not in _STATUSES:
                raise GuestFailure(f"the guest agent answered {method} {kind} of a volume with {answer.status}")
            yield answer
    except Unavailable as error:
        raise GuestFailure(f"the guest agent did not answer {method} {kind} of a volume: {error.message}") from error
