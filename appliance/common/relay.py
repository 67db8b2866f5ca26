"""Answering a request with what another service of ours answers it: both bodies pass as they come, and none is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.common.http import Answer
from appliance.domain.errors import CubeError

log = structlog.get_logger()

Ask = Callable[[AsyncIterator[bytes]], AbstractAsyncContextManager[Answer]]


class Relay(Response):
    """`ask` gets the request's body and yields the answer. Where it raises first, the error is answered as always.

    A caller that goes away, or lets the answer stand for longer than `idle`, ends what `ask` began. Of the answer's
    head, its status and length are passed on and nothing else.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        media_type: str,
        idle: timedelta,
        takes_body: bool,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        self._ask = ask
        self._idle_s = idle.total_seconds()
        self._takes_body = takes_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = _Caller(receive, sends=self._takes_body)
        passing = asyncio.create_task(self._pass_on(caller.body(), send))
        leaving = asyncio.create_task(caller.left())
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            leaving.cancel()
            outcome, _ = await asyncio.gather(passing, leaving, return_exceptions=True)
        if isinstance(outcome, Exception) and not isinstance(outcome, ClientDisconnect):
            raise outcome

    async def _pass_on(self, body: AsyncIterator[bytes], send: Send) -> None:
        begun = False
        try:
            async with self._ask(body) as answer:
                await send({"type": "http.response.start", "status": answer.status, "headers": self._head(answer)})
                begun = True
                async for piece in answer.pieces:
                    async with asyncio.timeout(self._idle_s):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (CubeError, TimeoutError) as error:
            if not begun:
                raise
            # The server closes the connection with too little sent: there is no other way left to say it.
            log.warning("answer_cut_short", error=str(error) or type(error).__name__)

    def _head(self, answer: Answer) -> list[tuple[bytes, bytes]]:
        mine = [(name, value) for name, value in self.raw_headers if name not in (b"content-type", b"content-length")]
        if answer.status != 204:
            # Errors are JSON whatever the route answers otherwise.
            kind = self.media_type if answer.status < 400 else "application/json"
            mine.append((b"content-type", str(kind).encode()))
            if answer.length is not None:
                mine.append((b"content-length", str(answer.length).encode()))
        return mine


class _Caller:
    """The other end of a request: what it sends, and whether it is still there."""

    def __init__(self, receive: Receive, *, sends: bool) -> None:
        self._receive = receive
        self._done = asyncio.Event()
        if not sends:
            self._done.set()

    async def body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if message.get("body"):
                yield message["body"]
            more = message.get("more_body", False)
        self._done.set()

    async def left(self) -> None:
        """Return when it is gone, which shows only after all it had to send."""
        await self._done.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
