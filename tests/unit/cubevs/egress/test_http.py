"""Requests are read strictly, and sent on so that nobody reads them another way."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubevs.egress.http_body import read_body
from appliance.cubevs.egress.http_head import Framing, RequestHead, parse_head
from appliance.cubevs.egress.refusals import Reason, Refused


def head(*lines: str) -> RequestHead:
    return parse_head("\r\n".join([*lines, "", ""]).encode("latin-1"))


def refusal(*lines: str) -> Reason:
    with pytest.raises(Refused) as caught:
        head(*lines)
    return caught.value.reason


GET = "GET / HTTP/1.1"


@pytest.mark.parametrize(
    ("request_line", "host"),
    [
        (GET, "example.com"),
        (GET, "EXAMPLE.com:80"),
        (GET, "example.com:"),
        (GET, "example.com."),
        ("GET /a?b=http://evil.org/ HTTP/1.0", "example.com"),
        ("GET http://example.com HTTP/1.1", "example.com"),
        ("GET http://Example.com:80/a HTTP/1.1", "example.com"),
        ("GET HTTP://example.com?x HTTP/1.1", "example.com"),
        ("OPTIONS * HTTP/1.1", "example.com"),
    ],
)
def test_the_host_of_a_request(request_line: str, host: str) -> None:
    assert head(request_line, f"Host: {host}").host == "example.com"


@pytest.mark.parametrize(
    "lines",
    [
        ("CONNECT example.com:443 HTTP/1.1", "Host: example.com"),
        ("GET http://evil.org/ HTTP/1.1", "Host: example.com"),
        ("GET http://evil.org@example.com/ HTTP/1.1", "Host: example.com"),
        ("GET http://example.com@evil.org/ HTTP/1.1", "Host: example.com"),
        ("GET http://example.com:8080/ HTTP/1.1", "Host: example.com"),
        ("GET https://example.com/ HTTP/1.1", "Host: example.com"),
        ("GET example.com HTTP/1.1", "Host: example.com"),
        ("GET * HTTP/1.1", "Host: example.com"),
        (GET, "Host: example.com", "Host: evil.org"),
        (GET, "Host: example.com", "host: example.com"),
        (GET, "Host: example.com:8080"),
        (GET, "Host: example.com:80:80"),
        (GET, "Host: evil.org@example.com"),
        (GET, "Host: [::1]"),
        (GET, "Host : example.com"),
        (GET, " Host: example.com"),
        (GET, "Host: example.com", " folded"),
        (GET, "Host: example.com", "X"),
        (GET, "Host: example.com", "X Y: z"),
        (GET, "Host: example.com", "X: a\nHost: evil.org"),
        (GET, "Host: example.com", "X: a\rb"),
        (GET, "Host: example.com", "X: a\0b"),
        (GET, "Host: example.com", ": x"),
        (GET, "Host: example.com", "Content-Length: 1", "Content-Length: 1"),
        (GET, "Host: example.com", "Content-Length: 1, 1"),
        (GET, "Host: example.com", "Content-Length: +1"),
        (GET, "Host: example.com", "Content-Length: -1"),
        (GET, "Host: example.com", "Content-Length: 0x1"),
        (GET, "Host: example.com", "Content-Length: "),
        (GET, "Host: example.com", "Content-Length: 1", "Transfer-Encoding: chunked"),
        (GET, "Host: example.com", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        (GET, "Host: example.com", "Transfer-Encoding: gzip, chunked"),
        (GET, "Host: example.com", "Transfer-Encoding: identity"),
        (GET, "Host: example.com", "Transfer-Encoding: \x0bchunked"),
        ("GET / HTTP/1.0", "Host: example.com", "Transfer-Encoding: chunked"),
        (GET, "Host: example.com", "Connection: close, Host"),
        (GET, "Host: example.com", "Connection: content-length"),
        (GET, "Host: example.com", "Connection: Transfer-Encoding"),
        ("GET  / HTTP/1.1", "Host: example.com"),
        ("GET /a b HTTP/1.1", "Host: example.com"),
        ("GET / HTTP/1.1 ", "Host: example.com"),
        ("GET / HTTP/2.0", "Host: example.com"),
        ("GET / HTTP/1.2", "Host: example.com"),
        ("GET /", "Host: example.com"),
        ("GE(T / HTTP/1.1", "Host: example.com"),
        ("PRI * HTTP/2.0",),
        ("", GET, "Host: example.com"),
        (GET, "Host: example.com", *["X: y"] * 300),
    ],
)
def test_what_could_be_read_in_two_ways_is_malformed(lines: tuple[str, ...]) -> None:
    assert refusal(*lines) is Reason.MALFORMED


@pytest.mark.parametrize(
    "lines",
    [
        (GET,),
        (GET, "Host: 1.2.3.4"),
        (GET, "Host: 169.254.169.254:80"),
        (GET, "Host: a.b, c.d"),
        (GET, "Host: *"),
        (GET, "Host: a..b"),
    ],
)
def test_a_request_for_no_name_is_unnamed(lines: tuple[str, ...]) -> None:
    assert refusal(*lines) is Reason.UNNAMED


def test_an_empty_host_is_malformed() -> None:
    assert refusal(GET, "Host:") is Reason.MALFORMED


def test_what_is_sent_on_ends_the_connection_and_is_of_no_other_protocol() -> None:
    sent = head(
        "POST /a HTTP/1.1",
        "Host:  example.com\t",
        "Connection: keep-alive, Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
        "Keep-Alive: 5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Content-Length: 3",
        "Accept: */*",
    ).forwarded()
    assert sent == (
        b"POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )


def test_bodies_are_framed() -> None:
    assert head(GET, "Host: a.b").body == 0
    assert head(GET, "Host: a.b", "Content-Length: 0012").body == 12
    assert head(GET, "Host: a.b", "Transfer-Encoding: Chunked").body is Framing.CHUNKED


@given(st.binary(max_size=200))
def test_any_head_is_one_for_one_host_or_refused(raw: bytes) -> None:
    try:
        found = parse_head(raw + b"\r\nHost: example.com\r\n\r\n")
    except Refused:
        return
    assert found.host == "example.com"
    assert found.forwarded().lower().count(b"\r\nhost:") == 1


async def body(data: bytes, framing: int | Framing, *, end: bool = False) -> tuple[bytes, bytes]:
    """Return what is sent on and what is left unread."""
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    if end:
        stream.feed_eof()
    sent = b"".join([piece async for piece in read_body(stream, framing)])
    stream.feed_eof()
    return sent, await stream.read()


NEXT = b"GET /admin HTTP/1.1\r\nHost: evil.org\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "framing", "sent"),
    [
        (b"", 0, b""),
        (b"abc", 3, b"abc"),
        (b"x" * 200_000, 200_000, b"x" * 200_000),
        (b"0\r\n\r\n", Framing.CHUNKED, b"0\r\n\r\n"),
        (b"3\r\nabc\r\n0\r\n\r\n", Framing.CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"),
        (
            b"003;a=b\r\nabc\r\nA\r\n0123456789\r\n00\r\nX: y\r\n\r\n",
            Framing.CHUNKED,
            b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n",
        ),
        (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", Framing.CHUNKED, b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
    ],
)
async def test_a_body_is_sent_on_to_its_end_and_nothing_behind_it(
    data: bytes, framing: int | Framing, sent: bytes
) -> None:
    assert await body(data + NEXT, framing) == (sent, NEXT)


@pytest.mark.parametrize(
    ("data", "framing"),
    [
        (b"ab", 3),
        (b"", Framing.CHUNKED),
        (b"3\r\nab", Framing.CHUNKED),
        (b"3\r\nabcd\r\n0\r\n\r\n", Framing.CHUNKED),
        (b"3\r\nabc", Framing.CHUNKED),
        (b"3\nabc\r\n0\r\n\r\n", Framing.CHUNKED),
        (b"\r\n0\r\n\r\n", Framing.CHUNKED),
        (b"-1\r\n", Framing.CHUNKED),
        (b"0x3\r\nabc\r\n", Framing.CHUNKED),
        (b" 3\r\nabc\r\n", Framing.CHUNKED),
        (b"3 \r\nabc\r\n", Framing.CHUNKED),
        (b"fffffffffffffffff\r\n", Framing.CHUNKED),
        (b"3;a\nb\r\nabc\r\n", Framing.CHUNKED),
        (b"0\r\n", Framing.CHUNKED),
        (b"0\r\n" + b"X: y\r\n" * 100, Framing.CHUNKED),
        (b"1" * 70000, Framing.CHUNKED),
    ],
)
async def test_a_body_whose_end_is_in_doubt_is_malformed(data: bytes, framing: int | Framing) -> None:
    with pytest.raises(Refused) as caught:
        await body(data, framing, end=True)
    assert caught.value.reason is Reason.MALFORMED
