"""Whatever a client writes, a request reaches the sandbox that it names, or is a 4xx: never another one's.

Two sandboxes run, each behind an address of its own that answers with its name. Requests are written byte by byte,
since no client library sends what an attacker does.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.cubeproxy.conftest import DOMAIN, Proxy
from tests.integration.cubeproxy.owners import owners

MINE, THEIRS = "i" + "m" * 20, "i" + "t" * 20
PORT = 18080
EXAMPLES = 3000


@dataclass(frozen=True)
class Request:
    target: str
    headers: tuple[tuple[str, str], ...]
    body: str = ""

    def encode(self) -> bytes:
        head = [f"GET {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*head, "Connection: close", "", self.body]).encode("latin-1", "replace")


@pytest.fixture
async def both(proxy: Proxy) -> AsyncIterator[Proxy]:
    async with owners({MINE: "127.0.1.1", THEIRS: "127.0.1.2"}, PORT):
        proxy.publish(MINE, "127.0.1.1")
        proxy.publish(THEIRS, "127.0.1.2")
        yield proxy


def ask(port: int, request: bytes) -> tuple[int, str | None]:
    """Return the status of the first answer, and which sandbox gave it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = bytearray()
        with suppress(ConnectionResetError):  # what was refused unread is reset
            while chunk := connection.recv(1 << 16):
                answer += chunk
                status = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
                owner = re.search(rb"owner=(\w+)", answer)
                # nginx lingers after a refusal; there is no more to learn.
                if owner or (status and status[1] != b"200"):
                    return int(status[1]) if status else 400, owner[1].decode() if owner else None
    # What is no HTTP/1 at all is closed, or answered without a status line.
    return 400, None


ids = st.sampled_from([MINE, THEIRS, MINE.upper(), "i" + "z" * 20, MINE[:-1], "", "..", "i\u00fc", f"{MINE}_"])
ports = st.sampled_from([str(PORT), "0", "65536", "00018080", "018080", "99999", "-1", "1e4", "", "18080 ", "+18080"])
domains = st.sampled_from(
    [
        DOMAIN,
        DOMAIN.upper(),
        f"{DOMAIN}.",
        f"{DOMAIN}:443",
        f"{DOMAIN}:0",
        f"evil.{DOMAIN}",
        f"{DOMAIN}.evil",
        "xn--cbe-hoa.test",
    ]
)
named = st.builds(
    lambda port, dash, id_, rest, domain: f"{port}{dash}{id_}{rest}.{domain}",
    ports,
    st.sampled_from(["-", "--", "_", "", "."]),
    ids,
    st.sampled_from(["", "-6532622b", f"-{THEIRS}", f".{PORT}-{THEIRS}", f"@{PORT}-{THEIRS}", f",{PORT}-{THEIRS}"]),
    domains,
)
good = st.sampled_from([f"{PORT}-{MINE}.{DOMAIN}", f"{PORT}-{THEIRS}.{DOMAIN}"])
unnamed = st.sampled_from(
    ["localhost", "127.0.0.1", "[::1]:80", f"sandbox.{DOMAIN}", f"api.{DOMAIN}", "", "localhost."]
)
hosts = st.one_of(good, named, unnamed)
extras = st.one_of(
    st.tuples(st.sampled_from(["Host", "host", "Host ", "Hos\tt", "X-Forwarded-Host", "X-Host", "Forwarded"]), hosts),
    st.tuples(st.sampled_from(["E2b-Sandbox-Id", "E2b_Sandbox_Id", "e2b-sandbox-id "]), ids),
    st.tuples(st.sampled_from(["E2b-Sandbox-Port", "E2b_Sandbox_Port"]), ports),
    st.tuples(st.just("Content-Length"), st.sampled_from(["0", "5", "-1", "0, 5"])),
    st.tuples(st.just("Transfer-Encoding"), st.sampled_from(["chunked", "identity", "chunked, chunked", "xchunked"])),
    st.tuples(st.sampled_from(["X-Forwarded-For", "X-Original-URL", "X-Rewrite-URL"]), st.just("127.0.1.2")),
)
targets = st.one_of(
    st.sampled_from(["/", "//", "/../", "/%2e%2e/", f"//{PORT}-{THEIRS}.{DOMAIN}/", "*", "", "/#x", "/ HTTP/1.1"]),
    hosts.map(lambda host: f"http://{host}/"),
)
smuggled = hosts.map(lambda host: f"0\r\n\r\nGET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
requests = st.builds(
    lambda target, host, more, body: Request(target, (("Host", host), *more), body),
    targets,
    hosts,
    st.lists(extras, max_size=4).map(tuple),
    st.one_of(st.just(""), smuggled),
)


def may_answer(request: Request) -> set[str]:
    """Return the sandboxes that a request names where it counts: in its host, or in headers if the host names none."""
    host = request.headers[0][1].lower()
    match = re.match(rf"0*{PORT}-(i\w{{20}})(-[a-z0-9-]*)?\.{re.escape(DOMAIN)}(:\d+)?$", host.strip())
    if match:
        return {match[1]}
    if re.fullmatch(rf"(localhost|127\.0\.0\.1|\[::1\]|sandbox\.{re.escape(DOMAIN)})(:\d+)?", host.strip()):
        return {value for name, value in request.headers if name == "E2b-Sandbox-Id"}
    return set()


async def test_requests_reach_whom_they_name_or_nobody(both: Proxy) -> None:
    answered: dict[str, int] = {"owner": 0, "refused": 0}

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(requests)
    def check(request: Request) -> None:
        status, owner = ask(both.http_port, request.encode())
        if owner is None:
            # 502: a sandbox that does not exist; 501 and 505 are nginx's for what is no request.
            assert 400 <= status < 500 or status in (501, 502, 505), (status, request)
            answered["refused"] += 1
        else:
            assert owner in may_answer(request), (owner, request)
            answered["owner"] += 1

    await asyncio.to_thread(check)
    # The cases are of both kinds, or the test shows nothing.
    assert min(answered.values()) > EXAMPLES // 50


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (f"GET / HTTP/1.1\r\nHost: {PORT}-{MINE}.{DOMAIN}\r\nHost: {PORT}-{THEIRS}.{DOMAIN}\r\n", 400),
        (f"GET http://{PORT}-{THEIRS}.{DOMAIN}/ HTTP/1.1\r\nHost: {PORT}-{MINE}.{DOMAIN}\r\n", 400),
        (f"GET http://{PORT}-{MINE}.{DOMAIN}/ HTTP/1.1\r\nHost: {PORT}-{MINE}.{DOMAIN}\r\n", 200),
        (f"CONNECT {PORT}-{THEIRS}.{DOMAIN}:80 HTTP/1.1\r\nHost: {PORT}-{MINE}.{DOMAIN}\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: {PORT}-{MINE}.{DOMAIN}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: {PORT}-{MINE}.{DOMAIN}\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: localhost\r\nE2b_Sandbox_Id: {MINE}\r\nE2b_Sandbox_Port: {PORT}\r\n", 400),
        (
            (
                f"GET / HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: {MINE}\r\nE2b-Sandbox-Id: {THEIRS}\r\n"
                f"E2b-Sandbox-Port: {PORT}\r\n"
            ),
            400,
        ),
        (f"GET / HTTP/1.0\r\nE2b-Sandbox-Id: {MINE}\r\nE2b-Sandbox-Port: {PORT}\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: {PORT}-{MINE.upper()}.{DOMAIN.upper()}\r\n", 200),
        (f"GET / HTTP/1.1\r\nHost: {PORT}-{MINE}.{DOMAIN}.\r\n", 400),
    ],
)
async def test_what_is_said_twice_or_two_ways_is_refused(both: Proxy, request_bytes: str, status: int) -> None:
    sent = f"{request_bytes}Connection: close\r\n\r\n".encode()
    assert (await asyncio.to_thread(ask, both.http_port, sent))[0] == status


@pytest.mark.parametrize(
    "path",
    [
        *("/init;x", "/init;x=1/", "/;/init", "/%2finit", "/%2Finit", "/%252finit", "/%69%6e%69%74", "/%2569nit"),
        *(
            "/x/%2e%2e/init",
            "/x/..%2finit",
            "/init/.",
            "/init/./",
            "/init//",
            "/.//init",
            "/init%2f",
            "/INIT",
            "/\\init",
        ),
        *("/init%3bx", "/init#x", "/fsthaw;a", "/collapse/", "/unfreeze%2f"),
    ],
)
async def test_no_spelling_reaches_an_internal_route_of_the_agent(both: Proxy, path: str) -> None:
    sent = f"GET {path} HTTP/1.1\r\nHost: 49983-{MINE}.{DOMAIN}\r\nConnection: close\r\n\r\n".encode()
    assert await asyncio.to_thread(ask, both.http_port, sent) == (404, None)
