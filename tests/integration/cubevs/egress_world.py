"""What the egress proxy stands between: guests that ask for names, and servers outside that say who they are."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from appliance.cubevs.switch import CubeVS
from appliance.domain.ids import SandboxId
from tests.support.certificates import tls_contexts
from tests.support.sandbox_net import ELSEWHERE, OUTSIDE, PRIVATE, Guest, Site
from tests.support.waiting import eventually

DEADLINE_S: Final = 20
NAMES: Final = ("example.com", "www.example.com", "a.b.example.com", "other.org", "twice.org")

Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]
Answerer = Callable[["World", IPv4Address], Handler]


@dataclass
class World:
    """Servers on ports 80 and 443 of several addresses outside."""

    client_tls: ssl.SSLContext
    certificate: Path
    """PEM file of what it trusts."""
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    """(address, all bytes received) of every HTTP connection, in the order of their ends."""
    tls_connections: list[str] = field(default_factory=list)
    """Address of every TLS connection."""


@asynccontextmanager
async def world(place: Site, directory: Path, *, by_tls: Answerer | None = None) -> AsyncIterator[World]:
    """Serve until the block ends; by TLS an echo, unless told otherwise."""
    server_tls, client_tls = tls_contexts(directory, *NAMES)
    made = World(client_tls, directory / "server.pem")
    answerer = by_tls or echo
    async with AsyncExitStack() as stack:
        for address in (OUTSIDE, ELSEWHERE, PRIVATE):
            await stack.enter_async_context(_serve(place, address, 443, answerer(made, address), server_tls))
            await stack.enter_async_context(_serve(place, address, 80, _answer(made, address)))
        yield made
    # The sockets of what was aborted are closed in the loop's next rounds.
    await asyncio.sleep(0.05)


@asynccontextmanager
async def _serve(
    place: Site, address: IPv4Address, port: int, handler: Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    served: set[StreamWriter] = set()

    async def guarded(reader: StreamReader, writer: StreamWriter) -> None:
        served.add(writer)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):  # ended early, which is what some tests want
            pass
        finally:
            # At once: `close` would wait for what a client that is gone has to say to the end of TLS.
            writer.transport.abort()
            served.discard(writer)

    listener = place.listen(address, port)
    listener.setblocking(False)
    server = await asyncio.start_server(guarded, sock=listener, ssl=tls)
    try:
        yield
    finally:
        server.close()
        for writer in tuple(served):  # of a guest that went away and could not say so any more
            writer.transport.abort()
        await eventually(lambda: not served)


def echo(made: World, address: IPv4Address) -> Handler:
    """Say who this is, and then the same as the client."""

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        made.tls_connections.append(str(address))
        writer.write(f"{address}\n".encode())
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    return handle


def _answer(made: World, address: IPv4Address) -> Handler:
    """Answer one request, with who this is, and note everything that comes until the client has ended."""

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        received = await reader.readuntil(b"\r\n\r\n")
        body = f"{address}\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.write_eof()
        received += await reader.read()
        made.requests.append((str(address), received))

    return handle


async def connect(guest: Guest, address: IPv4Address, port: int) -> socket.socket:
    """Return a connected, non-blocking socket of the guest."""
    with guest.namespace.entered():
        client = socket.socket()
    client.setblocking(False)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(client, (str(address), port))
    except BaseException:
        client.close()
        raise
    return client


@asynccontextmanager
async def plain(guest: Guest, address: IPv4Address, port: int) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_connection(sock=await connect(guest, address, port))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def tls(
    world: World, guest: Guest, address: IPv4Address, name: str
) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    """Connect to `address`, ask for `name`, and verify that the certificate is for it."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            sock=await connect(guest, address, 443), ssl=world.client_tls, server_hostname=name
        )
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield reader, writer
    finally:
        writer.transport.abort()


async def tls_answer(world: World, guest: Guest, address: IPv4Address, name: str) -> str:
    """Return who answers for `name`."""
    async with tls(world, guest, address, name) as (reader, _):
        return (await reader.readline()).decode().strip()


async def http(guest: Guest, address: IPv4Address, request: bytes) -> tuple[int, bytes]:
    """Send bytes to port 80; return the status of the answer, and its body as far as the connection's end."""
    async with plain(guest, address, 80) as (reader, writer):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), await reader.read()


async def https_lines(
    switch: CubeVS, sandbox_id: SandboxId, guest: Guest, address: IPv4Address, request: bytes
) -> list[bytes]:
    """Send a request for example.com by TLS to `address`, as a guest that trusts the proxy; return who heard what."""
    context = ssl.create_default_context(cadata=switch.trusted_certificate(sandbox_id))
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            sock=await connect(guest, address, 443), ssl=context, server_hostname="example.com"
        )
        try:
            writer.write(request)
            return (await reader.readuntil(b"\r\n\r\n")).splitlines()
        finally:
            writer.transport.abort()


def get(host: str, path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
