"""A name server that tests fill: UDP, and TCP where an answer does not fit into a datagram."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Final

MAX_DATAGRAM: Final = 512
RESPONSE, RECURSION, TRUNCATED = 0x8000, 0x0180, 0x0200
NO_SUCH_NAME: Final = 3
_A, _IN = 1, 1


class NameServer:
    """Answers for the names in `records`, and that there is no other; counts who asked for what."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[str, str]] = []
        """(`udp` or `tcp`, name)"""
        self.port = 0

    def answer(self, query: bytes, *, by: str) -> bytes:
        labels, at = [], 12
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode())
            at += 1 + size
        name, question = ".".join(labels), query[12 : at + 5]
        self.asked.append((by, name))
        addresses = self.records.get(name)
        return reply(
            query[:2],
            question,
            addresses or (),
            code=0 if addresses is not None else NO_SUCH_NAME,
            datagram=by == "udp",
        )


def reply(id_: bytes, question: bytes, addresses: tuple[str, ...], *, code: int = 0, datagram: bool = True) -> bytes:
    """Return an answer in which every record points back to the name of the question."""
    records = b"".join(
        struct.pack("!HHHIH", 0xC00C, _A, _IN, 60, 4) + IPv4Address(address).packed for address in addresses
    )
    flags = RESPONSE | RECURSION | code
    whole = id_ + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0) + question + records
    if datagram and len(whole) > MAX_DATAGRAM:
        return id_ + struct.pack("!HHHHH", flags | TRUNCATED, 1, 0, 0, 0) + question
    return whole


@asynccontextmanager
async def name_server(address: IPv4Address, port: int = 0) -> AsyncIterator[NameServer]:
    """Serve on `address` in this thread's network namespace."""
    server = NameServer()

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # of its kind
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(server.answer(data, by="udp"), addr)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = server.answer(query, by="tcp")
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()
        await writer.wait_closed()

    streams = await asyncio.start_server(connected, str(address), port)
    server.port = streams.sockets[0].getsockname()[1]
    datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Datagrams, local_addr=(str(address), server.port)
    )
    try:
        yield server
    finally:
        datagrams.close()
        streams.close()
        await streams.wait_closed()
