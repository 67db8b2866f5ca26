from __future__ import annotations

from datetime import timedelta

import pytest
from starlette.requests import Request

from guest_agent.connect import parse_call
from guest_agent.errors import RpcError


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def test_the_headers_of_a_call() -> None:
    call = parse_call(request(authorization="Basic cm9vdDo=", connect_timeout_ms="1500", keepalive_ping_interval="50"))
    assert (call.user_name, call.timeout, call.keepalive) == (
        "root",
        timedelta(milliseconds=1500),
        timedelta(seconds=50),
    )
    silent = parse_call(request(connect_timeout_ms="0", keepalive_ping_interval="0"))
    assert (silent.user_name, silent.timeout, silent.keepalive) == (None, None, timedelta(seconds=90))


@pytest.mark.parametrize("headers", [{"connect_timeout_ms": "soon"}, {"authorization": "Basic ???"}])
def test_malformed_headers_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(RpcError):
        parse_call(request(**headers))
