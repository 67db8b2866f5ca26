"""A strict SOCKS5 server (RFC 1928, RFC 1929): what its client does against the letter is noted as a violation."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from tests.support.waiting import eventually

_IPV4, _NAME = 1, 3
_NO_LOGIN, _BY_PASSWORD, _NO_METHOD = 0, 2, 0xFF
_HOST_UNREACHABLE, _REFUSED = 4, 5
_DEADLINE_S: Final = 30


class _Violation(Exception):
    pass


@dataclass
class Socks5Server:
    names: dict[str, IPv4Address] = field(default_factory=dict)
    """What it resolves names to."""
    credentials: tuple[str, str] | None = None
    """None: everybody may use it without."""
    code: int = 0
    """What it answers to every request in place of serving it, unless zero."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Target, as a name or an address, and port of every request."""
    violations: list[str] = field(default_factory=list)
    open_socket: Callable[[], socket.socket] = socket.socket
    """Makes the sockets that it connects with: in whichever network namespace that is."""
    port: int = 0
    open_connections: int = 0

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.open_connections += 1
        try:
            await self._log_in(reader, writer)
            upstream = await self._connected(reader, writer)
            if upstream is not None:
                await _relay(reader, writer, *upstream)
        except _Violation as violation:
            self.violations.append(str(violation))
        except (OSError, asyncio.IncompleteReadError):  # the client gave up
            pass
        finally:
            writer.transport.abort()
            self.open_connections -= 1

    async def _log_in(self, reader: StreamReader, writer: StreamWriter) -> None:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if version != 5 or not methods or len(set(methods)) != count:
            raise _Violation(f"greeting of version {version} with methods {methods!r}")
        wanted = _NO_LOGIN if self.credentials is None else _BY_PASSWORD
        if wanted not in methods:
            writer.write(bytes((5, _NO_METHOD)))
            await writer.drain()
            raise ConnectionAbortedError
        writer.write(bytes((5, wanted)))
        if self.credentials is None:
            return
        if await reader.readexactly(1) != b"\1":
            raise _Violation("login of another version")
        username = await reader.readexactly((await reader.readexactly(1))[0])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        taken = (username.decode(), password.decode()) == self.credentials
        writer.write(bytes((1, 0 if taken else 1)))
        if not taken:
            await writer.drain()
            raise ConnectionAbortedError

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> tuple[StreamReader, StreamWriter] | None:
        version, command, reserved, kind = await reader.readexactly(4)
        if (version, command, reserved) != (5, 1, 0) or kind not in (_IPV4, _NAME):
            raise _Violation(f"request {(version, command, reserved, kind)}")
        if kind == _IPV4:
            target = str(IPv4Address(await reader.readexactly(4)))
            address: IPv4Address | None = IPv4Address(target)
        else:
            target = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            address = self.names.get(target)
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append((target, port))
        code = self.code or (_HOST_UNREACHABLE if address is None else 0)
        opened = None
        if not code:
            try:
                opened = await self._open(str(address), port)
            except OSError:
                code = _REFUSED
        # The bound address as a name: clients are to take each kind.
        writer.write(bytes((5, code, 0, _NAME, 4)) + b"here" + bytes(2))
        await writer.drain()
        return opened

    async def _open(self, address: str, port: int) -> tuple[StreamReader, StreamWriter]:
        made = self.open_socket()
        made.setblocking(False)
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await asyncio.get_running_loop().sock_connect(made, (address, port))
        except BaseException:
            made.close()
            raise
        return await asyncio.open_connection(sock=made)


async def _relay(reader: StreamReader, writer: StreamWriter, out_reader: StreamReader, out: StreamWriter) -> None:
    async def copy(source: StreamReader, target: StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()

    try:
        async with asyncio.TaskGroup() as sides:
            sides.create_task(copy(reader, out))
            sides.create_task(copy(out_reader, writer))
    except* OSError:
        pass
    finally:
        out.transport.abort()


@asynccontextmanager
async def socks5_server(
    listener: socket.socket, *, tls: ssl.SSLContext | None = None, server: Socks5Server | None = None
) -> AsyncIterator[Socks5Server]:
    """Serve on a listening socket until the block ends."""
    made = server or Socks5Server()
    listener.setblocking(False)
    made.port = listener.getsockname()[1]
    serving = await asyncio.start_server(made.serve, sock=listener, ssl=tls)
    try:
        yield made
    finally:
        serving.close()
        await eventually(lambda: made.open_connections == 0)
