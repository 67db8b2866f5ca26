"""Looks up names for the proxy, at the name server that guests ask too.

An own client and not the C library's: it takes no thread a lookup, cannot be led to /etc/hosts or a search domain, and
asks the one server it is told to.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from ipaddress import IPv4Address
from typing import Final, Protocol

_HEADER: Final = struct.Struct("!HHHHHH")
_TYPE_A: Final = 1
_CLASS_IN: Final = 1
_RECURSION_DESIRED: Final = 0x0100
_RESPONSE: Final = 0x8000
_TRUNCATED: Final = 0x0200
_NO_SUCH_NAME: Final = 3
_POINTER: Final = 0xC0


class Unresolved(Exception):
    """There is no address for the name, or nobody to ask. `str()` says which."""


class Resolver(Protocol):
    async def addresses(self, name: str) -> tuple[IPv4Address, ...]:
        """Return the IPv4 addresses of `name`, at least one. Raises Unresolved; has deadlines of its own."""
        ...


class _Truncated(Exception):
    """The answer did not fit into a datagram."""


class DnsResolver:
    """Asks one recursive name server, by UDP and, for long answers, by TCP. See `Resolver`."""

    def __init__(self, server: IPv4Address, port: int = 53, *, attempts: int = 3, attempt_s: float = 2) -> None:
        self._server = (str(server), port)
        self._attempts = attempts
        self._attempt_s = attempt_s

    async def addresses(self, name: str) -> tuple[IPv4Address, ...]:
        for _ in range(self._attempts):
            query = _query(name)
            try:
                async with asyncio.timeout(self._attempt_s):
                    try:
                        found = parse_answer(await self._ask_by_udp(query), query)
                    except _Truncated:
                        found = parse_answer(await self._ask_by_tcp(query), query)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, _Truncated):
                continue
            if not found:
                raise Unresolved(f"{name} has no IPv4 address")
            return found
        raise Unresolved(f"the name server does not answer for {name}")

    async def _ask_by_udp(self, query: bytes) -> bytes:
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            # Connected, the socket takes datagrams of the server's only.
            lambda: _Exchange(query, answered),
            remote_addr=self._server,
        )
        try:
            return await answered
        finally:
            transport.close()

    async def _ask_by_tcp(self, query: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._server)
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()


class _Exchange(asyncio.DatagramProtocol):
    """Sends one question and takes the first datagram that answers it; others may be forged."""

    def __init__(self, query: bytes, answered: asyncio.Future[bytes]) -> None:
        self._query = query
        self._answered = answered

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # of the endpoint's kind
        transport.sendto(self._query)

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if not self._answered.done() and answers(data, self._query):
            self._answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc)


def _query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = _HEADER.pack(secrets.randbits(16), _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!HH", _TYPE_A, _CLASS_IN)


def answers(message: bytes, query: bytes) -> bool:
    """Is `message` an answer to just this question?"""
    if len(message) < len(query):
        return False
    _, flags, questions, *_ = _HEADER.unpack_from(message)
    asked = message[_HEADER.size : len(query)].lower()
    return (
        message[:2] == query[:2]
        and bool(flags & _RESPONSE)
        and questions == 1
        and asked == query[_HEADER.size :].lower()
    )


def parse_answer(message: bytes, query: bytes) -> tuple[IPv4Address, ...]:
    """Return the addresses in an answer. Raises Unresolved, and _Truncated where it is to be asked for by TCP.

    The server has followed aliases: whose name an address stands under makes no difference, since it is used for the
    name that was asked for and no other.
    """
    if not answers(message, query):
        raise Unresolved("the name server answers another question")
    _, flags, _, count, *_ = _HEADER.unpack_from(message)
    if flags & _TRUNCATED:
        raise _Truncated
    if code := flags & 0xF:
        raise Unresolved("there is no such name" if code == _NO_SUCH_NAME else f"the name server refuses: code {code}")
    found: list[IPv4Address] = []
    at = len(query)
    try:
        for _ in range(count):
            at = _past_name(message, at)
            kind, class_, _, size = struct.unpack_from("!HHIH", message, at)
            data = message[at + 10 : at + 10 + size]
            at += 10 + size
            if (kind, class_, len(data)) == (_TYPE_A, _CLASS_IN, 4):
                found.append(IPv4Address(data))
    except (struct.error, IndexError) as error:
        raise Unresolved("the name server's answer cannot be read") from error
    return tuple(found)


def _past_name(message: bytes, at: int) -> int:
    while size := message[at]:
        if size & _POINTER:
            return at + 2
        at += 1 + size
    return at + 1
