"""The messages of process.Process by number, for the binary codec."""

from __future__ import annotations

from guest_agent.protobuf.schema import (
    EMPTY,
    Field,
    Kind,
    Message,
    Rpc,
    binary,
    boolean,
    enum,
    message,
    string,
    uint32,
)

_SIGNALS = {"SIGNAL_UNSPECIFIED": 0, "SIGNAL_SIGKILL": 9, "SIGNAL_SIGTERM": 15}

_PTY = Message((message(1, "size", Message((uint32(1, "cols"), uint32(2, "rows")))),))
_SELECTOR = Message((uint32(1, "pid"), string(2, "tag")))
_CONFIG = Message(
    (
        string(1, "cmd"),
        string(2, "args", repeated=True),
        Field(3, "envs", Kind.STRING_MAP),
        string(4, "cwd"),
    )
)
_INFO = Message((message(1, "config", _CONFIG), uint32(2, "pid"), string(3, "tag")))
_INPUT = Message((binary(1, "stdin"), binary(2, "pty")))
_END = Message((Field(1, "exitCode", Kind.SINT32), boolean(2, "exited"), string(3, "status"), string(4, "error")))
_EVENT = Message(
    (
        message(1, "start", Message((uint32(1, "pid"),))),
        message(2, "data", Message((binary(1, "stdout"), binary(2, "stderr"), binary(3, "pty")))),
        message(3, "end", _END),
        message(4, "keepalive", EMPTY),
    )
)
_EVENTS = Message((message(1, "event", _EVENT),))
_SELECT = Message((message(1, "process", _SELECTOR),))
_STREAM_INPUT = Message(
    (
        message(1, "start", _SELECT),
        message(2, "data", Message((message(2, "input", _INPUT),))),
        message(3, "keepalive", EMPTY),
    )
)

START = Rpc(
    Message((message(1, "process", _CONFIG), message(2, "pty", _PTY), string(3, "tag"), boolean(4, "stdin"))),
    _EVENTS,
)
CONNECT = Rpc(_SELECT, _EVENTS)
LIST = Rpc(EMPTY, Message((message(1, "processes", _INFO, repeated=True),)))
UPDATE = Rpc(Message((message(1, "process", _SELECTOR), message(2, "pty", _PTY))), EMPTY)
SEND_INPUT = Rpc(Message((message(1, "process", _SELECTOR), message(2, "input", _INPUT))), EMPTY)
STREAM_INPUT = Rpc(_STREAM_INPUT, EMPTY)
SEND_SIGNAL = Rpc(Message((message(1, "process", _SELECTOR), enum(2, "signal", _SIGNALS))), EMPTY)
CLOSE_STDIN = Rpc(_SELECT, EMPTY)
