"""Which requests need which proof."""

from __future__ import annotations

import hmac
import time
from enum import Enum, auto

from starlette.requests import Request

from guest_agent.auth.peers import InitPeers
from guest_agent.auth.signature import Operation, check_signature
from guest_agent.errors import HttpError
from guest_agent.session import SessionStore


class Access(Enum):
    """What a route asks of its caller."""

    OPEN = auto()
    """Nothing."""
    NODE = auto()
    """To come from outside the sandbox."""
    NODE_TOKEN = auto()
    """To come from outside the sandbox, with its access token, if it has one."""
    TOKEN = auto()
    """The sandbox's access token, if it has one."""
    SIGNED_READ = auto()
    """The token, or a URL signed for reading."""
    SIGNED_WRITE = auto()
    """The token, or a URL signed for writing."""


_OPERATIONS = {Access.SIGNED_READ: Operation.READ, Access.SIGNED_WRITE: Operation.WRITE}
_UNAUTHORIZED = "unauthorized access, please provide a valid access token or method signing if supported"


class Gate:
    """Decides whether a request may pass; raises HttpError 401, 403 or 503 where it may not."""

    def __init__(self, sessions: SessionStore, init_peers: InitPeers) -> None:
        self._sessions = sessions
        self._init_peers = init_peers

    def check(self, request: Request, access: Access) -> None:
        if access is Access.OPEN:
            return
        if access in (Access.NODE, Access.NODE_TOKEN):
            if not self._init_peers.admits(request.client.host if request.client else None):
                raise HttpError(403, f"{request.url.path} is accepted from the node only")
            if access is Access.NODE:
                return
        session = self._sessions.current
        if session is None:
            # Before the node has said who this machine is, nobody can prove to be its owner.
            raise HttpError(503, "the sandbox is not initialized yet")
        if session.access_token is None or _has_token(request, session.access_token):
            return
        if access not in _OPERATIONS:
            raise HttpError(401, _UNAUTHORIZED)
        if request.headers.get("x-access-token"):
            raise HttpError(401, "access token present in header but does not match")
        query = request.query_params
        check_signature(
            signature=query.get("signature"),
            path=query.get("path", ""),
            operation=_OPERATIONS[access],
            user_name=query.get("username", ""),
            token=session.access_token,
            expiration=query.get("signature_expiration"),
            now_s=time.time(),
        )


def _has_token(request: Request, token: str) -> bool:
    given = request.headers.get("x-access-token", "")
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())
