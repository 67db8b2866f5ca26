"""What is in a volume, as CubeMaster and nodes alike are asked for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from appliance.common.http import Answer, InternalClient


class VolumeContentClient:
    """CubeMaster wants the volume's token in the headers, as `Authorization: Bearer`; a node trusts who asks it."""

    def __init__(self, http: InternalClient) -> None:
        self._http = http

    def content(
        self,
        method: str,
        volume_id: str,
        kind: str,
        *,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: AsyncIterator[bytes] | None,
        idle: timedelta,
    ) -> AbstractAsyncContextManager[Answer]:
        """Ask for what is in a volume, as `InternalClient.exchange` does."""
        path = f"/v1/volumes/{volume_id}/content/{kind}"
        return self._http.exchange(method, path, idle=idle, params=params, headers=headers, body=body)
