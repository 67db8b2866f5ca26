"""POST /flush: the node is about to keep this machine's disk without its RAM.

What programs have written so far goes to the disk, and the node is told what is nowhere else: the session's variables.
Only the node may ask, since it has no access token after a restart of its own.
"""

from __future__ import annotations

import asyncio
import os

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from guest_agent.session import SessionStore


class Flush:
    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions

    async def endpoint(self, _request: Request) -> ASGIApp:
        await asyncio.to_thread(os.sync)
        session = self._sessions.current
        return JSONResponse({"envVars": dict(session.env_vars) if session is not None else {}})
