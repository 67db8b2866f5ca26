"""How much a client may make the agent hold before it has proved anything.

The parser keeps the head of a request in memory until it is complete, without a limit of its own, and uvicorn's clocks
run only between requests. The agent is the last process the kernel would end for want of memory.
"""

from __future__ import annotations

import asyncio

from guest_agent.coalesce import CoalescingProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's head, and of what a chunked body has besides its content."""
MAX_CONNECTIONS = 4096
HEAD_TIMEOUT_S = 60.0
"""For a whole head, from the connection's first moment or the head's first byte."""


class BoundedProtocol(CoalescingProtocol):
    """HTTP/1.1 for clients that nobody trusts yet."""

    _without_progress = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is given nothing else
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._without_progress += len(data)
        super().data_received(data)
        if self._without_progress > MAX_HEAD_BYTES:
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()
        elif self._in_head and self._head_timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._without_progress = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._without_progress = 0
        super().on_body(body)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()
