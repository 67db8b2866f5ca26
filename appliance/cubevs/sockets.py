"""Abort the node's own TCP connections to an address, by sock_diag.

A guest that is gone sends no reset, so the node's sockets to it would wait for ever. SOCK_DESTROY makes each of them
fail at once with ECONNABORTED, in whichever process it is.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_SOCK_DESTROY: Final = 21
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_BYTECODE_ATTRIBUTE: Final = 1
_DESTINATION_CONDITION: Final = 8

_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBxI48s")
_ANSWER: Final = struct.Struct("=BBBB48s")
_ANY_ID: Final = bytes(40) + b"\xff" * 8  # no cookie

# Of enum tcp_state: not LISTEN, which has no peer, and not TIME_WAIT and CLOSE, which hold nobody up.
_TCP_TIME_WAIT, _TCP_CLOSE, _TCP_LISTEN = 6, 7, 10
_STATES: Final = 0xFFF & ~(1 << _TCP_TIME_WAIT) & ~(1 << _TCP_CLOSE) & ~(1 << _TCP_LISTEN)

_RECEIVE_DEADLINE_S: Final = 5.0


def can_abort() -> bool:
    """Has this kernel SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)? Asks for a socket that cannot exist."""
    with _open() as diag:
        try:
            _destroy(diag, socket.AF_INET, struct.pack("=2s2s", b"\0\1", b"\0\1").ljust(40, b"\0") + b"\xff" * 8)
        except OSError as error:
            return error.errno not in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
    return True


def abort_connections(address: IPv4Address) -> int:
    """Abort every TCP connection of this network namespace to `address`; return how many. Blocks briefly."""
    aborted = 0
    with _open() as diag:
        # A dual-stack socket connected to an IPv4 peer is listed under IPv6; the condition matches its mapped address.
        found = [(family, id_) for family in (socket.AF_INET, socket.AF_INET6) for id_ in _dump(diag, family, address)]
        for family, id_ in found:
            try:
                _destroy(diag, family, id_)
            except OSError as error:
                if error.errno != errno.ENOENT:  # it closed meanwhile
                    raise
            else:
                aborted += 1
    return aborted


def _open() -> socket.socket:
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    diag.settimeout(_RECEIVE_DEADLINE_S)
    return diag


def _send(diag: socket.socket, kind: int, flags: int, body: bytes) -> None:
    diag.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body)


def _receive(diag: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of the messages of one answer; an error message is raised, an acknowledgement ends it."""
    while True:
        data = diag.recv(1 << 16)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -int(struct.unpack_from("=i", body)[0])
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield kind, body


def _dump(diag: socket.socket, family: int, address: IPv4Address) -> list[bytes]:
    """Return the ids of the TCP sockets of `family` whose peer is `address`; the kernel filters."""
    condition = struct.pack("=BBxxi4s", socket.AF_INET, 32, -1, address.packed)
    size = 4 + len(condition)
    # An operation says how far to go on for yes (to the end: accepted) and for no (past the end: rejected).
    bytecode = struct.pack("=BBH", _DESTINATION_CONDITION, size, size + 4) + condition
    attribute = struct.pack("=HH", 4 + len(bytecode), _BYTECODE_ATTRIBUTE) + bytecode
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES, _ANY_ID)
    _send(diag, _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, request + attribute)
    return [_ANSWER.unpack_from(body)[4] for kind, body in _receive(diag) if kind == _SOCK_DIAG_BY_FAMILY]


def _destroy(diag: socket.socket, family: int, id_: bytes) -> None:
    _send(diag, _SOCK_DESTROY, _NLM_F_ACK, _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES, id_))
    for _ in _receive(diag):
        pass
