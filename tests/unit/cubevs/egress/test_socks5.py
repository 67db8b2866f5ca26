"""The SOCKS5 client against a strict server, and against servers that do what they should not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubevs.egress import socks5
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.stream import Stream, TcpStream, pieces
from appliance.cubevs.egress.tunnel_tls import secured
from appliance.domain.egress import TunnelTls
from tests.support.certificates import tls_contexts
from tests.support.socks5_server import Socks5Server, socks5_server

LOCALHOST = IPv4Address("127.0.0.1")
DEADLINE_S = 30


def listener() -> socket.socket:
    made = socket.socket()
    made.bind((str(LOCALHOST), 0))
    made.listen()
    return made


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Stream]:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(str(LOCALHOST), port)
        try:
            yield TcpStream(reader, writer)
        finally:
            writer.transport.abort()


@pytest.fixture
async def destination() -> AsyncIterator[int]:
    """Return the port of a server that speaks first, and says at the end of what it hears how much that was."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome\n")
        writer.write(b"%d bytes\n" % len(await reader.read()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, str(LOCALHOST), 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture
async def proxy() -> AsyncIterator[Socks5Server]:
    async with socks5_server(listener()) as server:
        server.names["example.com"] = LOCALHOST
        yield server
    assert server.violations == []


async def exchange(stream: Stream) -> bytes:
    """Say something and the end of it, and return all that comes back."""
    stream.write(b"x" * 100_000)
    await stream.end()
    return b"".join([piece async for piece in pieces(stream)])


@pytest.mark.parametrize("target", ["example.com", LOCALHOST], ids=str)
async def test_bytes_pass_both_ways_and_each_way_has_its_own_end(
    proxy: Socks5Server, destination: int, target: str | IPv4Address
) -> None:
    async with connected(proxy.port) as stream:
        await socks5.connect(stream, target, destination)
        assert await exchange(stream) == b"welcome\n100000 bytes\n"
    assert proxy.asked == [(str(target), destination)]


@pytest.mark.parametrize("credentials", [("user", "pass word"), ("u" * 255, "p" * 255), ("user", "")])
async def test_a_user_logs_in(proxy: Socks5Server, destination: int, credentials: tuple[str, str]) -> None:
    proxy.credentials = credentials
    async with connected(proxy.port) as stream:
        await socks5.connect(stream, "example.com", destination, username=credentials[0], password=credentials[1])
        assert (await exchange(stream)).startswith(b"welcome")


async def test_a_login_is_offered_and_need_not_be_asked_for(proxy: Socks5Server, destination: int) -> None:
    async with connected(proxy.port) as stream:
        await socks5.connect(stream, "example.com", destination, username="user", password="pass")
        assert (await exchange(stream)).startswith(b"welcome")


async def refusal(
    proxy: Socks5Server, target: str = "example.com", *, username: str = "", password: str = ""
) -> Refused:
    async with connected(proxy.port) as stream:
        with pytest.raises(Refused) as caught:
            await socks5.connect(stream, target, 9, username=username, password=password)
    return caught.value


async def test_a_wrong_password_is_said_and_not_shown(proxy: Socks5Server) -> None:
    proxy.credentials = ("user", "right")
    refused = await refusal(proxy, username="user", password="wrong")
    assert (refused.reason, refused.detail) == (
        Reason.TUNNEL,
        "The SOCKS5 proxy of this sandbox does not take its user name and password.",
    )
    assert proxy.asked == []


async def test_a_missing_login_is_said(proxy: Socks5Server) -> None:
    proxy.credentials = ("user", "right")
    refused = await refusal(proxy)
    assert (refused.reason, "login" in refused.detail) == (Reason.TUNNEL, True)


@pytest.mark.parametrize("code", [3, 4, 5, 6])
async def test_a_destination_that_the_proxy_cannot_reach_is_told_apart(proxy: Socks5Server, code: int) -> None:
    proxy.code = code
    refused = await refusal(proxy)
    assert refused.reason is Reason.UPSTREAM
    assert "cannot reach example.com on port 9: " in refused.detail


@pytest.mark.parametrize("code", [1, 2, 7, 8, 9, 255])
async def test_what_the_proxy_does_not_do_is_its_own_fault(proxy: Socks5Server, code: int) -> None:
    proxy.code = code
    assert (await refusal(proxy)).reason is Reason.TUNNEL


async def test_a_name_that_the_proxy_does_not_know_is_unreached(proxy: Socks5Server) -> None:
    assert (await refusal(proxy, "absent.example.com")).reason is Reason.UPSTREAM


async def test_what_does_not_fit_is_not_sent(proxy: Socks5Server) -> None:
    proxy.credentials = ("user", "p")
    assert (await refusal(proxy, username="user", password="p" * 256)).reason is Reason.TUNNEL
    assert (await refusal(proxy, username="user", password="\N{SNOWMAN}" * 86)).reason is Reason.TUNNEL


class Script:
    """A `Stream` whose other side says just this, whatever it hears, and ends."""

    def __init__(self, says: bytes) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(says)
        reader.feed_eof()
        self.heard = b""
        self.read = reader.read
        self.readexactly = reader.readexactly
        self.readuntil = reader.readuntil

    def write(self, data: bytes, /) -> None:
        self.heard += data

    async def drain(self) -> None:
        pass

    async def end(self) -> None:
        pass


GREETED = b"\5\0"


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"\5",
        b"\4\0",
        b"\5\2",  # a login that was not offered
        b"\5\1",
        b"\5\xff",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        GREETED,
        GREETED + b"\5\0\0",
        GREETED + b"\4\0\0\1" + bytes(6),
        GREETED + b"\5\0\1\1" + bytes(6),
        GREETED + b"\5\0\0\2" + bytes(6),
        GREETED + b"\5\0\0\1" + bytes(5),
        GREETED + b"\5\0\0\4" + bytes(17),
        GREETED + b"\5\0\0\3\x05here" + bytes(2),
    ],
)
async def test_an_answer_that_is_not_to_the_letter_is_refused(says: bytes) -> None:
    with pytest.raises(Refused) as caught:
        await socks5.connect(Script(says), "example.com", 443)
    assert caught.value.reason is Reason.TUNNEL


@pytest.mark.parametrize("says", [b"\5\2" + b"\2\0", b"\5\2" + b"\1\1", b"\5\2" + b"\1", b"\5\2" + b"\0\0"])
async def test_an_answer_to_the_login_that_is_no_yes_is_refused(says: bytes) -> None:
    script = Script(says)
    with pytest.raises(Refused) as caught:
        await socks5.connect(script, "example.com", 443, username="user", password="pass")
    assert caught.value.reason is Reason.TUNNEL
    assert script.heard == b"\5\2\0\2" + b"\1\4user\4pass", "and nothing is asked for"


@given(st.binary(max_size=40))
async def test_any_answer_is_taken_whole_or_refused(says: bytes) -> None:
    script = Script(says + b"!")
    try:
        await socks5.connect(script, IPv4Address("1.2.3.4"), 443)
    except Refused:
        return
    assert script.heard == b"\5\1\0" + b"\5\1\0\1\1\2\3\4\1\xbb"


@pytest.mark.parametrize("bound", [b"\1" + bytes(4), b"\3\4here", b"\3\0", b"\4" + bytes(16)])
async def test_what_follows_the_answer_is_left_to_be_read(bound: bytes) -> None:
    script = Script(GREETED + b"\5\0\0" + bound + bytes(2) + b"SSH-2.0")
    await socks5.connect(script, "example.com", 22)
    assert await script.read() == b"SSH-2.0"


async def test_a_silent_proxy_is_waited_for_no_longer_than_the_caller_says() -> None:
    with closing(listener()) as silent:
        async with connected(silent.getsockname()[1]) as stream:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await socks5.connect(stream, "example.com", 443)


class TestTls:
    @pytest.fixture
    def contexts(self, tmp_path: Path) -> tuple[ssl.SSLContext, str]:
        """Return the server's side, and the certificate to trust it by."""
        server, _ = tls_contexts(tmp_path, "proxy.example.com")
        pem = (tmp_path / "server.pem").read_text()
        return server, pem[pem.index("-----BEGIN CERTIFICATE") :]

    @pytest.fixture
    async def proxy(self, contexts: tuple[ssl.SSLContext, str]) -> AsyncIterator[Socks5Server]:
        async with socks5_server(listener(), tls=contexts[0]) as server:
            server.names["example.com"] = LOCALHOST
            yield server
        assert server.violations == []

    async def test_bytes_pass_both_ways(
        self, proxy: Socks5Server, contexts: tuple[ssl.SSLContext, str], destination: int
    ) -> None:
        proxy.credentials = ("user", "pass")
        async with connected(proxy.port) as below:
            stream = await secured(below, TunnelTls("proxy.example.com", contexts[1]))
            await socks5.connect(stream, "example.com", destination, username="user", password="pass")
            assert await stream.readuntil(b"\n") == b"welcome\n"
        assert proxy.asked == [("example.com", destination)]

    @pytest.mark.parametrize(
        ("server_name", "trusted"),
        [("other.example.com", lambda pem: pem), ("proxy.example.com", lambda _: None)],
        ids=["another name", "the node's trust store"],
    )
    async def test_who_cannot_be_verified_is_told_nothing(
        self,
        proxy: Socks5Server,
        contexts: tuple[ssl.SSLContext, str],
        server_name: str,
        trusted: Callable[[str], str | None],
    ) -> None:
        async with connected(proxy.port) as below:
            with pytest.raises(Refused) as caught:
                await secured(below, TunnelTls(server_name, trusted(contexts[1])))
        assert caught.value.reason is Reason.TUNNEL
        assert "cannot be verified" in caught.value.detail

    @pytest.mark.parametrize(
        "certificate", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\N{SNOWMAN}"]
    )
    async def test_certificates_that_are_none_are_said(self, proxy: Socks5Server, certificate: str) -> None:
        async with connected(proxy.port) as below:
            with pytest.raises(Refused) as caught:
                await secured(below, TunnelTls("proxy.example.com", certificate))
        assert caught.value.reason is Reason.TUNNEL
        assert "certificates" in caught.value.detail

    async def test_a_proxy_that_speaks_no_tls_is_said(self, contexts: tuple[ssl.SSLContext, str]) -> None:
        script = Script(b"\5\0" * 100)
        with pytest.raises(Refused) as caught:
            await secured(script, TunnelTls("proxy.example.com", contexts[1]))
        assert caught.value.reason is Reason.TUNNEL
