"""The volumes of this machine's session, for requests that name one by its slot."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from guest_agent.errors import HttpError
from guest_agent.session import SessionStore
from guest_agent.volumes import inside
from guest_agent.volumes.failures import VolumeError, invalid
from guest_agent.volumes.slots import Slots


class Volumes:
    def __init__(self, sessions: SessionStore, slots: Slots) -> None:
        self._sessions = sessions
        self._slots = slots

    @contextmanager
    def root(self, request: Request) -> Iterator[int]:
        """A descriptor of the root of the volume that a request is about."""
        slot = request.query_params.get("slot", "")
        session = self._sessions.current
        path = session.volumes.get(slot) if session is not None else None
        if path is None:
            raise VolumeError(409, "not_mounted", f"no volume is mounted in slot {slot!r}")
        try:
            descriptor = self._slots.open(int(slot), path)
        except HttpError as error:
            raise VolumeError(error.status, "not_mounted", error.message) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    async def release(self, _request: Request) -> ASGIApp:
        """POST /volumes/release: the machine is about to end, and its volumes are not."""
        session = self._sessions.current
        for slot, path in session.volumes.items() if session is not None else ():
            await asyncio.to_thread(self._slots.release, int(slot), path)
        return Response(status_code=204)


def path_of(request: Request) -> str:
    """Return the clean path that a request is about. Raises VolumeError."""
    try:
        return inside.clean(request.query_params.get("path", ""))
    except ValueError as error:
        raise invalid(f"invalid path: {error}") from error
