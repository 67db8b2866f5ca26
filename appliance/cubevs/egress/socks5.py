"""The client's side of SOCKS5 (RFC 1928), with user name and password (RFC 1929): CONNECT, and nothing else.

The proxy is a tenant's and not trusted: an answer that is not exactly what may come next ends the connection.
"""

from __future__ import annotations

from asyncio import IncompleteReadError
from ipaddress import IPv4Address
from typing import Final, NoReturn

from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.stream import Stream

_VERSION: Final = 5
_CONNECT: Final = 1
_NO_LOGIN, _BY_PASSWORD, _NO_METHOD = 0, 2, 0xFF
_LOGIN_VERSION: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_MAX_TEXT: Final = 255

_SUCCEEDED: Final = 0
# Of these the proxy says that it did its part, and the destination did not.
_UNREACHED: Final = {
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the connection was refused",
    6: "the connection took too long",
}
_FAILED: Final = {
    1: "general failure",
    2: "its rules do not allow that",
    7: "it does not connect for its clients",
    8: "it does not know this kind of address",
}


async def connect(
    stream: Stream, target: str | IPv4Address, port: int, *, username: str = "", password: str = ""
) -> None:
    """Have the proxy connect `stream` to `target`, which it resolves if that is a name.

    Raises Refused, and OSError where the proxy breaks off. The deadline is the caller's.
    """
    try:
        await _log_in(stream, username, password)
        stream.write(bytes((_VERSION, _CONNECT, 0)) + _address(target) + port.to_bytes(2, "big"))
        await stream.drain()
        await _read_reply(stream, f"{target} on port {port}")
    except IncompleteReadError as error:
        raise Refused(Reason.TUNNEL, "The SOCKS5 proxy of this sandbox ended within its answer.") from error


async def _log_in(stream: Stream, username: str, password: str) -> None:
    methods = (_NO_LOGIN, _BY_PASSWORD) if username or password else (_NO_LOGIN,)
    stream.write(bytes((_VERSION, len(methods), *methods)))
    await stream.drain()
    version, method = await stream.readexactly(2)
    if version != _VERSION or method not in (*methods, _NO_METHOD):
        _refuse("speaks no SOCKS5")
    if method == _NO_METHOD:
        _refuse("takes nobody without another login")
    if method == _BY_PASSWORD:
        stream.write(bytes((_LOGIN_VERSION,)) + _text(username) + _text(password))
        await stream.drain()
        version, status = await stream.readexactly(2)
        if version != _LOGIN_VERSION:
            _refuse("speaks no SOCKS5")
        if status:
            _refuse("does not take its user name and password")


async def _read_reply(stream: Stream, destination: str) -> None:
    version, code, reserved, kind = await stream.readexactly(4)
    if version != _VERSION or reserved or kind not in (_IPV4, _NAME, _IPV6):
        _refuse("speaks no SOCKS5")
    if code in _UNREACHED:
        raise Refused(
            Reason.UPSTREAM, f"The SOCKS5 proxy of this sandbox cannot reach {destination}: {_UNREACHED[code]}."
        )
    if code != _SUCCEEDED:
        _refuse(f"does not connect to {destination}: {_FAILED.get(code, f'code {code}')}")
    # Where it connects from. Nobody asks for that, but it comes before what the destination says.
    sizes = {_IPV4: 4, _IPV6: 16}
    await stream.readexactly((sizes.get(kind) or (await stream.readexactly(1))[0]) + 2)


def _address(target: str | IPv4Address) -> bytes:
    if isinstance(target, IPv4Address):
        return bytes((_IPV4,)) + target.packed
    return bytes((_NAME,)) + _text(target)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) > _MAX_TEXT:
        _refuse(f"gets no user name, password or host of more than {_MAX_TEXT} bytes: set a shorter one")
    return bytes((len(data),)) + data


def _refuse(what: str) -> NoReturn:
    raise Refused(Reason.TUNNEL, f"The SOCKS5 proxy of this sandbox {what}.")
