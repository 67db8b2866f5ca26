"""QEMU's control protocol (QMP): one JSON object a line over a Unix socket, commands answered in order."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.domain.errors import VmmFailure
from appliance.hypervisor import sockets

Message = dict[str, Any]

_MAX_LINE_BYTES = 2**20
# Events nobody waits for; the oldest go first.
_EVENTS_KEPT = 64


class QmpRefused(VmmFailure):
    """QEMU answered a command with an error."""

    def __init__(self, command: str, reply: Mapping[str, Any]) -> None:
        super().__init__(f"QEMU refused {command}: {reply.get('desc', reply)}")
        self.command = command
        self.error_class = str(reply.get("class", ""))


class QmpDisconnected(VmmFailure):
    """QEMU closed the connection, which most often means that it died."""

    def __init__(self) -> None:
        super().__init__("QEMU closed its control socket")


class QmpClient:
    """A connection in command mode. Calls wait for each other; a call that is cancelled leaves it usable.

    QEMU serves one client at a time: a second connection is accepted when the first has closed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._received = bytearray()
        self._events: deque[Message] = deque(maxlen=_EVENTS_KEPT)
        self._last_id = 0

    @classmethod
    async def connect(cls, path: Path) -> QmpClient:
        """Connect and leave the negotiation mode; waits for QEMU to come up behind a socket made for it."""
        try:
            connection = await sockets.connect(path)
        except OSError as error:
            raise VmmFailure(f"no VMM at {path}: {error.strerror}") from error
        client = cls(connection)
        try:
            # The greeting is not waited for: QEMU reads the command once it has sent it.
            await client.execute("qmp_capabilities")
        except BaseException:
            client.close()
            raise
        return client

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, fd: int | None = None
    ) -> Any:
        """Run one command, handing QEMU a copy of `fd` where given, and return its `return` value."""
        async with self._lock:
            number = await self._send(command, arguments, fd)
            return await self._reply(command, number)

    async def execute_all(self, commands: Sequence[tuple[str, Mapping[str, object] | None]]) -> None:
        """Send all commands at once and check each answer: one round trip. The first refusal is raised."""
        async with self._lock:
            numbers = [(command, await self._send(command, arguments, None)) for command, arguments in commands]
            for command, number in numbers:
                await self._reply(command, number)

    async def event(self, name: str, accept: Callable[[Message], bool]) -> Message:
        """Return the data of the first event `name`, from among those not yet taken, whose data is accepted."""
        async with self._lock:
            while True:
                while self._events:
                    event = self._events.popleft()
                    if event["event"] == name and accept(event.get("data", {})):
                        return dict(event.get("data", {}))
                self._sort(await self._message())

    def close(self) -> None:
        """Drop the connection; the machine is not touched. Safe to repeat."""
        self._socket.close()

    async def _send(self, command: str, arguments: Mapping[str, object] | None, fd: int | None) -> int:
        self._last_id += 1
        message: Message = {"execute": command, "id": self._last_id}
        if arguments is not None:
            message["arguments"] = arguments
        line = json.dumps(message).encode() + b"\n"
        try:
            if fd is not None:
                # A descriptor travels with the byte it is sent with; the socket has room for one.
                socket.send_fds(self._socket, [line[:1]], [fd])
                line = line[1:]
            await self._loop.sock_sendall(self._socket, line)
        except OSError as error:
            raise QmpDisconnected from error
        return self._last_id

    async def _reply(self, command: str, number: int) -> Any:
        while True:
            message = await self._message()
            self._sort(message)
            # Answers to calls that were cancelled before they came carry another number.
            if message.get("id") == number:
                break
        if "error" in message:
            raise QmpRefused(command, message["error"])
        return message["return"]

    def _sort(self, message: Message) -> None:
        if "event" in message:
            self._events.append(message)

    async def _message(self) -> Message:
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > _MAX_LINE_BYTES:
                raise VmmFailure("QEMU sent a line without end")
            try:
                data = await self._loop.sock_recv(self._socket, 65536)
            except OSError as error:
                raise QmpDisconnected from error
            if not data:
                raise QmpDisconnected
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        message: Message = json.loads(line)
        return message
