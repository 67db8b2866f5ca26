from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.errors import Code, RpcError
from guest_agent.process import wire
from guest_agent.process.events import Channel, Ended, Keepalive, Output, Started
from guest_agent.process.terminal import TerminalSize


def test_a_start_request_with_everything() -> None:
    message = {
        "process": {"cmd": "/bin/bash", "args": ["-l"], "envs": {"A": "b"}, "cwd": "/x"},
        "pty": {"size": {"cols": 100, "rows": "30"}},
        "tag": "t",
        "stdin": False,
        "unknown": 1,
    }
    request = wire.parse_start(message)
    assert request == wire.StartRequest(
        wire.ProcessConfig("/bin/bash", ("-l",), {"A": "b"}, "/x"), TerminalSize(100, 30), "t", stdin=False
    )


def test_omitted_fields_have_their_defaults_and_stdin_is_on() -> None:
    request = wire.parse_start({"process": {"cmd": "x"}})
    assert request == wire.StartRequest(wire.ProcessConfig("x", (), {}, None), None, None, stdin=True)
    assert wire.parse_start({"process": {"cmd": "x"}, "pty": {}}).terminal == TerminalSize(80, 24)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"process": "x"},
        {"process": {"cmd": 5}},
        {"process": {"cmd": "x", "args": "y"}},
        {"process": {"cmd": "x", "envs": {"A": 1}}},
        {"process": {"cmd": "x"}, "pty": {"size": {"cols": -1}}},
        {"process": {"cmd": "x"}, "tag": 1},
    ],
)
def test_wrong_types_are_invalid_arguments(message: dict[str, Any]) -> None:
    with pytest.raises(RpcError) as refused:
        wire.parse_start(message)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_selector_is_a_pid_or_a_tag() -> None:
    assert wire.parse_selector({"process": {"pid": 7}}) == wire.Selector(7, None)
    assert wire.parse_selector({"process": {"tag": "t"}}) == wire.Selector(None, "t")
    with pytest.raises(RpcError):
        wire.parse_selector({"process": {"pid": True}})


@pytest.mark.parametrize("encoded", ["_-8=", "_-8", "/+8=", "/+8"])
def test_bytes_may_be_base64_of_either_alphabet_with_or_without_padding(encoded: str) -> None:
    assert wire.parse_input({"input": {"stdin": encoded}}) == wire.Input(b"\xff\xef", to_terminal=False)


@given(st.binary())
def test_output_of_any_bytes_survives(data: bytes) -> None:
    encoded = wire.encode_event(Output(Channel.PTY, data))["event"]["data"]
    assert wire.parse_input({"input": encoded}) == wire.Input(data, to_terminal=True)


def test_signals_have_names_and_numbers() -> None:
    assert wire.parse_signal({"signal": "SIGNAL_SIGKILL"}) is wire.parse_signal({"signal": 9}) is signal.SIGKILL
    messages: list[dict[str, Any]] = [
        {},
        {"signal": 0},
        {"signal": 2},
        {"signal": "SIGNAL_UNSPECIFIED"},
        {"signal": []},
    ]
    for unsupported in messages:
        with pytest.raises(RpcError) as refused:
            wire.parse_signal(unsupported)
        assert refused.value.code is Code.UNIMPLEMENTED


def test_events() -> None:
    assert wire.encode_event(Started(7)) == {"event": {"start": {"pid": 7}}}
    assert wire.encode_event(Keepalive()) == {"event": {"keepalive": {}}}
    assert wire.encode_event(Ended(1, exited=True, status="exit status 1")) == {
        "event": {"end": {"exitCode": 1, "exited": True, "status": "exit status 1", "error": "exit status 1"}}
    }


def test_stream_input_in_snake_and_camel_case() -> None:
    assert wire.parse_stream_input({"start": {"process": {"pid": 7}}}) == wire.StreamStart(wire.Selector(7, None))
    assert wire.parse_stream_input({"data": {"input": {"pty": "eA=="}}}) == wire.Input(b"x", to_terminal=True)
    assert wire.parse_stream_input({"keepalive": {}}) is None
