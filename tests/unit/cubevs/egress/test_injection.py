from __future__ import annotations

import pytest

from appliance.cubevs.egress.http_head import RequestHead, parse_head
from appliance.cubevs.egress.injection import injected
from appliance.cubevs.egress.refusals import Reason, Refused
from appliance.domain.egress import HeaderRule


def rule(name: str = "X-Key", value: str = "canary") -> HeaderRule:
    return HeaderRule("example.com", {name: value})


def head(*lines: str, port: int = 443) -> RequestHead:
    return parse_head("\r\n".join(["GET /a HTTP/1.1", "Host: example.com", *lines, "", ""]).encode(), port=port)


def test_a_rule_takes_the_place_of_all_fields_of_its_names() -> None:
    sent = head("x-key: 1", "X-KEY: 2", "X-Key2: kept", "x_key: 3", "Connection: X-Key").forwarded(injected(rule()))
    assert sent == (
        b"GET /a HTTP/1.1\r\nHost: example.com\r\nX-Key2: kept\r\nX-Key: canary\r\nConnection: close\r\n\r\n"
    )


def test_values_are_what_a_field_may_hold() -> None:
    assert injected(rule(value="é \t!")) == ((b"X-Key", "é \t!".encode()),)
    assert injected(rule(value="")) == ((b"X-Key", b""),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "a") for name in ("Host", "content-length", "Transfer-Encoding", "CONNECTION", "TE", "Trailer")],
        *[(name, "a") for name in ("Upgrade", "Keep-Alive", "Proxy-Connection", "", "A B", "A:", "A\r\nB", "é")],
        *[("X-Key", value) for value in ("canary\r\nHost: evil.org", "canary\n", "canary\0", "canary\x7f")],
    ],
)
def test_what_would_change_the_request_s_form_is_refused_without_its_value(name: str, value: str) -> None:
    with pytest.raises(Refused) as caught:
        injected(rule(name, value))
    assert caught.value.reason is Reason.HEADERS
    assert "canary" not in caught.value.detail


def test_a_rule_with_a_refusal_lets_nothing_pass() -> None:
    with pytest.raises(Refused, match=r"^gone$"):
        injected(HeaderRule("example.com", {"X-Key": "canary"}, refusal="gone"))


@pytest.mark.parametrize(
    ("lines", "asks"),
    [
        (("Connection: Upgrade", "Upgrade: websocket"), True),
        (("connection: keep-alive, upgrade", "upgrade: WebSocket"), True),
        (("Upgrade: websocket",), False),
        (("Connection: Upgrade",), False),
        (("Connection: Upgrade", "Upgrade: h2c"), False),
        (("Connection: Upgrade", "Upgrade: websocket, h2c"), False),
        (("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 3"), False),
        (("Connection: Upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"), False),
    ],
)
def test_who_asks_for_a_websocket(lines: tuple[str, ...], *, asks: bool) -> None:
    found = head(*lines)
    assert found.asks_for_websocket is asks
    assert b"upgrade" not in found.forwarded().lower(), "unless it is to become one"


def test_a_websocket_is_asked_for_anew() -> None:
    found = head("Connection: Upgrade, X-Drop", "Upgrade: websocket", "X-Drop: a", "Sec-WebSocket-Version: 13")
    assert found.forwarded(injected(rule()), websocket=True) == (
        b"GET /a HTTP/1.1\r\nHost: example.com\r\nSec-WebSocket-Version: 13\r\nX-Key: canary\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


@pytest.mark.parametrize(("port", "scheme"), [(80, "http"), (443, "https")])
def test_a_request_is_for_the_port_that_it_came_to(port: int, scheme: str) -> None:
    def request(target: str, host: str) -> RequestHead:
        return parse_head(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), port=port)

    for target, host in (("/", f"a.b:{port}"), (f"{scheme}://a.b/", "a.b"), (f"{scheme}://a.b:{port}", "a.b")):
        assert request(target, host).host == "a.b"
    other = {80: "https", 443: "http"}[port]
    for target, host in (("/", "a.b:8443"), (f"{other}://a.b/", "a.b"), (f"{scheme}://a.b:{523 - port}/", "a.b")):
        with pytest.raises(Refused):
            request(target, host)
