"""The HTTP server: uvicorn, without its clock.

uvicorn wakes up ten times a second to refresh the Date header and to look for a stop request. In hundreds of idle
guests that is what their processors would be doing; here a stop is an event, and there is no Date header.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from guest_agent.limits import BoundedProtocol
from guest_agent.settings import Settings

_BACKLOG = 1024
_IDLE_TIMEOUT_S = 640
"""Longer than the proxy keeps its connections, so that the proxy is the one to close them."""


class Server(uvicorn.Server):
    """Sleeps until there is a request or a signal."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_start()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._stop.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)


def listen(settings: Settings) -> socket.socket:
    """Return the listening socket; connections wait in its backlog until the server runs."""
    # asyncio turns Nagle's algorithm off only for sockets that say they are TCP; left on, it holds the small writes of
    # a stream back for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def serve(app: ASGIApp, listener: socket.socket, *, on_start: Callable[[], None]) -> None:
    """Call `on_start` within the event loop, then serve until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_TIMEOUT_S,
        timeout_graceful_shutdown=1,
    )
    Server(config, on_start).run([listener])
