"""Who listens where: /proc/net/tcp and tcp6, read in few system calls."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

_READ_BYTES = 64 * 1024
_LISTEN = b"0A"
_WORD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Listener:
    address: str
    """IPv4 for an IPv6 socket that is bound to an IPv4 address."""
    port: int


def parse_listeners(table: bytes) -> Iterator[Listener]:
    """Yield the listening sockets of a table, which has them first; its head line is not one."""
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTEN:
            address, _, port = fields[1].partition(b":")
            yield Listener(_address(address), int(port, 16))


def _address(hexadecimal: bytes) -> str:
    """Undo the table's form: words of four bytes, each printed as the machine's (little-endian) number."""
    data = bytes.fromhex(hexadecimal.decode())
    words = (data[start : start + _WORD_BYTES][::-1] for start in range(0, len(data), _WORD_BYTES))
    address = ip_address(b"".join(words))
    mapped = None if isinstance(address, IPv4Address) else address.ipv4_mapped
    return str(mapped or address)


class ListeningSockets:
    """Keeps the tables open; each reading costs a system call a table, however many connections there are."""

    def __init__(self, paths: Sequence[str] = ("/proc/net/tcp", "/proc/net/tcp6")) -> None:
        self._tables: list[int] = []
        for path in paths:
            # A kernel without IPv6 has no tcp6.
            with suppress(FileNotFoundError):
                self._tables.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def read(self) -> set[Listener]:
        return {listener for table in self._tables for listener in parse_listeners(_listening_part(table))}

    def close(self) -> None:
        for table in self._tables:
            os.close(table)
        self._tables.clear()


def _listening_part(table: int) -> bytes:
    """Return the table up to where connections begin. The kernel gives it in pieces of a page, of whole lines."""
    content = bytearray()
    while piece := os.pread(table, _READ_BYTES, len(content)):
        content += piece
        last = piece.rstrip().rpartition(b"\n")[2].split()
        if len(last) > 3 and last[3] != _LISTEN and last[0] != b"sl":
            break
    return bytes(content)


LOOPBACK = ("127.0.0.1", "::1")


def unreachable_services(listeners: Collection[Listener], *, outer: str, forwarded: Collection[int]) -> dict[int, str]:
    """Return the ports served on loopback alone, with the address to reach each at.

    `forwarded` are the ports where the listener on the `outer` address is our own. A port that anything else serves
    on another address is left alone.
    """
    elsewhere = {
        listener.port
        for listener in listeners
        if listener.address not in LOOPBACK and not (listener.address == outer and listener.port in forwarded)
    }
    # By address, so that IPv4 is preferred where both are served.
    found = sorted(
        (item for item in listeners if item.address in LOOPBACK), key=lambda item: item.address, reverse=True
    )
    return {listener.port: listener.address for listener in found if listener.port not in elsewhere}
