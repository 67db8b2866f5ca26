"""Cubelet's routes about volumes; `NodeClient.volumes` is one of these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import TypeAdapter

from appliance.common.http import InternalClient, StreamedAnswer
from appliance.contracts.node_volumes import CONTENT_HEADER, NewNodeVolume, NodeVolume

_VOLUMES = TypeAdapter(list[NodeVolume])


class NodeVolumesClient:
    def __init__(self, http: InternalClient, *, deadline: timedelta, content_deadline: timedelta) -> None:
        self._http = http
        self._deadline = deadline
        self._content_deadline = content_deadline

    async def create(self, volume_id: str, new: NewNodeVolume) -> None:
        await self._http.request(
            "PUT", f"/v1/volumes/{volume_id}", deadline=self._deadline, json=new.model_dump(mode="json")
        )

    async def list(self) -> list[NodeVolume]:
        return _VOLUMES.validate_python(await self._http.request("GET", "/v1/volumes", deadline=self._deadline))

    async def delete(self, volume_id: str) -> None:
        await self._http.request("DELETE", f"/v1/volumes/{volume_id}", deadline=self._deadline)

    @asynccontextmanager
    async def content(
        self,
        volume_id: str,
        method: str,
        kind: str,
        params: Mapping[str, str],
        body: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[StreamedAnswer]:
        """Yield the guest's answer, whatever its status. Raises the node's own errors."""
        async with self._http.exchange(
            method,
            f"/v1/volumes/{volume_id}/content/{kind}",
            params=params,
            body=body,
            theirs=CONTENT_HEADER,
            deadline=self._content_deadline,
        ) as answer:
            yield answer
