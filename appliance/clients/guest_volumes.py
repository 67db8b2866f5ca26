"""Cubelet's way to what is on a volume: E2B's content API, which the agent of the guest that has it answers.

Requests and answers are streamed. What comes back is written by an untrusted guest: of its head only a status that the
API has and the length of its body count.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address

import aiohttp
from yarl import URL

from appliance.clients.guest import AGENT_PORT
from appliance.domain.errors import GuestFailure

_STATUSES = frozenset({200, 201, 204, 400, 404, 409, 500, 507})
_PIECE_BYTES = 256 * 1024
_CONNECT_S = 10
_SILENCE_S = 300
"""A guest may be removing a large tree, or be hung."""


@dataclass(frozen=True, slots=True)
class GuestContent:
    """The head of an answer, and its body."""

    status: int
    media_type: str
    length: int | None
    """Of the body, where it is known."""
    pieces: AsyncIterator[bytes]


@asynccontextmanager
async def volume_content(
    address: IPv4Address,
    slot: int,
    *,
    method: str,
    kind: str,
    query: Mapping[str, str],
    body: AsyncIterator[bytes] | None,
    deadline: timedelta,
) -> AsyncIterator[GuestContent]:
    """Ask the guest at `address` about the volume in `slot`. Raises GuestFailure, also while pieces are read.

    The deadline is for the whole of it.
    """
    url = URL(f"http://{address}:{AGENT_PORT}/volumes/{kind}").with_query({**query, "slot": str(slot)})
    timeout = aiohttp.ClientTimeout(
        total=deadline.total_seconds(),
        sock_connect=_CONNECT_S,
        # Until it has a whole body, an agent says nothing.
        sock_read=None if body is not None else _SILENCE_S,
    )
    headers = {"Accept-Encoding": "identity", "Content-Type": "application/octet-stream"}
    try:
        # A session of its own: no connection of ours stays open in a guest that has an owner.
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response,
        ):
            if response.status not in _STATUSES:
                raise GuestFailure(f"the guest agent answered {method} {kind} of a volume with {response.status}")
            is_file = response.status == 200 and kind == "file"
            yield GuestContent(
                status=response.status,
                # The guest's own word for it could be anything, and would be shown under our name.
                media_type="application/octet-stream" if is_file else "application/json",
                length=response.content_length,
                pieces=response.content.iter_chunked(_PIECE_BYTES),
            )
    except TimeoutError as error:
        raise GuestFailure(f"the guest agent did not finish {method} {kind} of a volume in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise GuestFailure(f"the guest agent cannot be reached for {method} {kind} of a volume: {error!r}") from error
