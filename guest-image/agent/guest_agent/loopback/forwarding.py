"""Forwarding from the machine's own address to services on loopback, for as long as they are there.

Nothing tells a program that another one began to listen, so the tables are looked through: once a second while clients
are busy with the sandbox, and seldom otherwise, because hundreds of idle guests share their processors.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass

from guest_agent.loopback.relay import relay
from guest_agent.loopback.sockets import Listener, unreachable_services

BUSY_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 5.0
BUSY_AFTER_REQUEST_S = 60.0
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class _Forward:
    listener: socket.socket
    target: str


class Forwarding:
    """Owns the listening sockets on the `outer` address. Must be started within the event loop.

    `on_look` is called with each look: an idle guest has no other clock, and must not get a second one.
    """

    def __init__(
        self,
        outer: str,
        listeners: Callable[[], Collection[Listener]],
        *,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        self._outer = outer
        self._listeners = listeners
        self._on_look = on_look
        self._forwards: dict[int, _Forward] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._busy_until = 0.0

    @property
    def ports(self) -> Collection[int]:
        """What is forwarded now."""
        return self._forwards.keys()

    def start(self) -> None:
        """Begin to look."""
        self._on_look()
        self._busy_until = asyncio.get_running_loop().time() + BUSY_AFTER_REQUEST_S
        self._schedule()

    def touch(self) -> None:
        """Look often for a while: a client has asked for something, and may have started a service by it."""
        if self._timer is None:
            return
        now = asyncio.get_running_loop().time()
        was_idle = now >= self._busy_until
        self._busy_until = now + BUSY_AFTER_REQUEST_S
        if was_idle:
            self._timer.cancel()
            self._schedule()

    def close(self) -> None:
        """Stop looking, and end what is forwarded."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for port in list(self._forwards):
            self._drop(port)
        for connection in self._connections:
            connection.cancel()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        interval = BUSY_INTERVAL_S if loop.time() < self._busy_until else IDLE_INTERVAL_S
        self._timer = loop.call_later(interval, self._look)

    def _look(self) -> None:
        self._on_look()
        try:
            self.refresh()
        finally:
            self._schedule()

    def refresh(self) -> None:
        """Forward exactly what is served on loopback alone now."""
        services = unreachable_services(self._listeners(), outer=self._outer, forwarded=self.ports)
        for port, forward in list(self._forwards.items()):
            if services.get(port) != forward.target:
                self._drop(port)
        for port, target in services.items():
            if port not in self._forwards:
                self._add(port, target)

    def _add(self, port: int, target: str) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._outer, port))
            listener.listen(_BACKLOG)
        except OSError:
            # Somebody was faster, or the address is not there yet. The next look tells.
            listener.close()
            return
        listener.setblocking(False)
        self._forwards[port] = _Forward(listener, target)
        asyncio.get_running_loop().add_reader(listener, self._accept, port)

    def _drop(self, port: int) -> None:
        listener = self._forwards.pop(port).listener
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()

    def _accept(self, port: int) -> None:
        forward = self._forwards[port]
        try:
            client, _ = forward.listener.accept()
        except OSError:
            # The client has left already, or there is no descriptor to spare.
            return
        connection = asyncio.get_running_loop().create_task(self._serve(client, port, forward.target))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, client: socket.socket, port: int, target: str) -> None:
        if not await relay(client, target, port):
            # The service is gone: the port must be closed, and free for whoever serves it next.
            self.refresh()
