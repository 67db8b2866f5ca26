"""What is in a volume, for whoever has its token: asked of the node that it lies on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from appliance.common.http import Answer
from appliance.cubemaster.services.node_clients import NodeClients, naming
from appliance.cubemaster.services.tokens import VolumeTokens
from appliance.cubemaster.services.volumes import VolumeService
from appliance.domain.errors import RateLimited, Unauthenticated
from appliance.domain.ids import TeamId
from appliance.domain.volume import parse_volume_id

_AT_ONCE = 64
"""Calls of one team, each of which holds connections for as long as its client likes."""


class VolumeContent:
    def __init__(self, volumes: VolumeService, nodes: NodeClients, tokens: VolumeTokens, *, idle: timedelta) -> None:
        self._volumes = volumes
        self._nodes = nodes
        self._tokens = tokens
        self._idle = idle
        self._under_way: Counter[TeamId] = Counter()

    @property
    def idle(self) -> timedelta:
        """How long a call may stand still."""
        return self._idle

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        volume_id: str,
        kind: str,
        *,
        token: str,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: AsyncIterator[bytes] | None,
    ) -> AsyncIterator[Answer]:
        """Yield what the node answers, whatever its status. Without the volume's token nothing is looked up at all."""
        known = parse_volume_id(volume_id)
        if not self._tokens.opens(token, known):
            raise Unauthenticated("the volume's token is missing or wrong: GET /volumes/{volumeID} tells it")
        volume = (await self._volumes.get(known, team_id=None)).volume
        if self._under_way[volume.team_id] >= _AT_ONCE:
            raise RateLimited(
                f"the team has {_AT_ONCE} calls to its volumes' content under way; wait for one to end", retry_after_s=1
            )
        self._under_way[volume.team_id] += 1
        try:
            with naming(volume.node_id):
                client = await self._nodes.get(volume.node_id)
                asked = client.volumes.content(
                    method, volume.volume_id, kind, params=params, headers=headers, body=body, idle=self._idle
                )
                async with asked as answer:
                    yield answer
        finally:
            self._under_way[volume.team_id] -= 1
            if not self._under_way[volume.team_id]:
                del self._under_way[volume.team_id]
