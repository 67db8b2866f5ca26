"""What an upstream must show before it gets a request with headers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.common.clock import FakeClock
from appliance.cubevs.egress.certificates import Certificates
from appliance.cubevs.egress.intercept import Interceptor, upstream_trust
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.cubevs.egress.stream import TcpStream
from tests.support.certificates import tls_contexts


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[TcpStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    yield TcpStream(reader, writer), theirs
    writer.transport.abort()
    theirs.close()


def interceptor(trust: ssl.SSLContext, *, handshake_s: float = 30) -> Interceptor:
    return Interceptor(certificates=Certificates(FakeClock()), trust=trust, handshake_s=handshake_s)


async def refusal(made: Interceptor, stream: TcpStream, name: str = "example.com") -> Refused:
    with pytest.raises(Refused) as caught:
        await asyncio.wait_for(made.as_client(stream, name, stream), 60)
    return caught.value


async def test_one_that_speaks_no_tls_is_no_upstream(upstream: tuple[TcpStream, socket.socket]) -> None:
    stream, theirs = upstream
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    refused = await refusal(interceptor(upstream_trust(None)), stream)
    assert refused.reason is Reason.UPSTREAM


async def test_one_that_says_nothing_is_not_waited_for(upstream: tuple[TcpStream, socket.socket]) -> None:
    refused = await refusal(interceptor(upstream_trust(None), handshake_s=0.05), upstream[0])
    assert refused.reason is Reason.UPSTREAM


@pytest.mark.parametrize(("trusted", "name"), [(False, "example.com"), (True, "other.org")])
async def test_one_that_cannot_show_its_name_is_not_believed(
    upstream: tuple[TcpStream, socket.socket], tmp_path: Path, *, trusted: bool, name: str
) -> None:
    stream, theirs = upstream
    server, _ = tls_contexts(tmp_path, "example.com")
    trust = upstream_trust(tmp_path / "server.pem" if trusted else None)
    theirs.settimeout(30)

    def serve() -> None:
        # The client says why it ends.
        with pytest.raises(ssl.SSLError), server.wrap_socket(theirs, server_side=True) as made:
            made.recv(1)

    serving = asyncio.create_task(asyncio.to_thread(serve))
    refused = await refusal(interceptor(trust), stream, name)
    assert refused.reason is Reason.UNVERIFIED
    assert refused.detail.startswith(f"No request was sent: who answers for {name} cannot be verified: ")
    await serving


def test_verification_cannot_be_left_out() -> None:
    trust = upstream_trust(None)
    assert trust.check_hostname
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.minimum_version is ssl.TLSVersion.TLSv1_2
