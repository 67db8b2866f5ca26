"""What a pull reaches of the network: the public internet, and a registry on an internal address that is named.

Names are looked up here, once for each connection, and what was looked up is what is connected to. So it holds for
whatever a registry redirects to, and for a name that means something else a moment later.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from appliance.domain.registry_hosts import is_public, unwrapped

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_HEAD_DEADLINE_S = 10
_CONNECT_DEADLINE_S = 60
_ADDRESS_DEADLINE_S = 10
"""For one of several: IPv6 may be there and lead nowhere."""
_CONNECTIONS_MAX = 32
_CHUNK_BYTES = 256 * 1024
_REQUEST = re.compile(rb"CONNECT \[?(?P<host>[A-Za-z0-9.:_-]{1,253})\]?:(?P<port>[0-9]{1,5}) HTTP/1\.[01]\r\n")


class Refused(Exception):
    """A connection that no pull may make."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A scope (fe80::1%eth0) is of addresses that are not public anyway.
    return tuple(dict.fromkeys(ip_address(str(address[0]).partition("%")[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where connections may go to."""

    internal: frozenset[tuple[str, int]] = frozenset()
    """Allowed whatever their addresses are."""
    denied: Sequence[IPv4Network] = ()
    """Networks that are none of the public's, though their addresses look so."""
    resolve: Resolve = resolve

    async def connect(self, host: str, port: int) -> Streams:
        """Connect to a host. Raises Refused, or OSError; ValueError or OverflowError for what is no name or port."""
        async with asyncio.timeout(_CONNECT_DEADLINE_S):
            addresses = await self.resolve(host, port)
            if (host.lower(), port) in self.internal:
                return await _connect_to_first(addresses, port)
            if not all(self._is_allowed(address) for address in addresses):
                raise Refused(f"'{host}' has an address that is not a public one")
            reader, writer = await _connect_to_first(addresses, port)
            # Only to itself does a host connect from the address that it connects to.
            if writer.get_extra_info("sockname")[0] == writer.get_extra_info("peername")[0]:
                writer.transport.abort()
                raise Refused(f"'{host}' is this node")
            return reader, writer

    def _is_allowed(self, address: Address) -> bool:
        return is_public(address) and not any(unwrapped(address) in network for network in self.denied)


async def _connect_to_first(addresses: Sequence[Address], port: int) -> Streams:
    failure = OSError("the name has no address")
    for address in addresses:
        try:
            async with asyncio.timeout(_ADDRESS_DEADLINE_S):
                return await asyncio.open_connection(str(address), port)
        except OSError as error:
            failure = error
    raise failure


class WayOut:
    """Serves the connections of one pull, and remembers what it refused."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self.refused: str | None = None
        """The first of them: the others are what the client tried then."""
        self.failed: str | None = None
        """Why the last connection could not be made that was not refused. Not every client prints what it is told."""

    async def relay(self, listener: socket.socket, host: str, port: int) -> None:
        """Lead every connection to one destination, until cancelled."""

        async def serve(here: Streams) -> None:
            await _join(here, await self._destinations.connect(host, port))

        await self._accept(listener, serve)

    async def proxy(self, listener: socket.socket) -> None:
        """Be an HTTP proxy for TLS connections (RFC 9110, CONNECT), until cancelled."""
        await self._accept(listener, self._serve_proxy)

    async def _serve_proxy(self, here: Streams) -> None:
        reader, writer = here
        async with asyncio.timeout(_HEAD_DEADLINE_S):
            request = _REQUEST.match(await reader.readuntil(b"\r\n\r\n"))
        if request is None:
            writer.write(b"HTTP/1.1 405 images are pulled by HTTPS alone\r\nContent-Length: 0\r\n\r\n")
            return
        host, port = request["host"].decode(), int(request["port"])
        try:
            there = await self._destinations.connect(host, port)
        except Refused as error:
            self.refused = self.refused or str(error)
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        except (OSError, ValueError, OverflowError) as error:
            # The client prints what follows the number.
            self.failed = re.sub(r"[^ -~]", "?", f"{host}:{port} cannot be reached: {error}")
            writer.write(f"HTTP/1.1 502 {self.failed}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await _join(here, there)

    async def _accept(self, listener: socket.socket, serve: Callable[[Streams], Awaitable[None]]) -> None:
        room = asyncio.Semaphore(_CONNECTIONS_MAX)

        async def connection(accepted: socket.socket) -> None:
            reader, writer = await asyncio.open_connection(sock=accepted)
            try:
                await serve((reader, writer))
                await writer.drain()
            except (Refused, OSError, EOFError, asyncio.LimitOverrunError):
                # Whoever pulls sees a connection that ends, and says so.
                pass
            finally:
                writer.close()
                room.release()

        async with asyncio.TaskGroup() as connections:
            while True:
                await room.acquire()
                accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                connections.create_task(connection(accepted))


async def _join(one: Streams, other: Streams) -> None:
    """Carry bytes both ways until both have ended, or one has failed."""
    try:
        async with asyncio.TaskGroup() as ways:
            ways.create_task(_carry(one[0], other[1]))
            ways.create_task(_carry(other[0], one[1]))
    except* OSError:
        # A connection that breaks ends both.
        pass
    finally:
        other[1].close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
