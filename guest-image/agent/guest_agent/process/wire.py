"""Messages of process.Process in proto3 JSON."""

from __future__ import annotations

import base64
import binascii
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from guest_agent.envelope import JsonObject
from guest_agent.errors import Code, RpcError
from guest_agent.fields import field, invalid_field, object_field, string_field, uint32_field
from guest_agent.process.events import Ended, Event, Keepalive, Output, Started
from guest_agent.process.terminal import TerminalSize


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """What a client asked to run, and gets back from List."""

    cmd: str
    args: tuple[str, ...]
    envs: Mapping[str, str]
    cwd: str | None

    def encode(self) -> JsonObject:
        message: JsonObject = {"cmd": self.cmd, "args": list(self.args), "envs": dict(self.envs)}
        if self.cwd is not None:
            message["cwd"] = self.cwd
        return message


@dataclass(frozen=True, slots=True)
class StartRequest:
    config: ProcessConfig
    terminal: TerminalSize | None
    tag: str | None
    stdin: bool
    """Clients before envd 0.3.0 do not send it and expect a stdin."""


@dataclass(frozen=True, slots=True)
class Selector:
    """By pid or by tag."""

    pid: int | None
    tag: str | None


@dataclass(frozen=True, slots=True)
class Input:
    data: bytes
    to_terminal: bool


def parse_start(message: JsonObject) -> StartRequest:
    stdin = field(message, "stdin")
    return StartRequest(
        config=_parse_config(object_field(message, "process") or {}),
        terminal=_parse_terminal(message),
        tag=string_field(message, "tag"),
        stdin=stdin is None or stdin is True,
    )


def _parse_config(message: JsonObject) -> ProcessConfig:
    cmd = string_field(message, "cmd")
    args = field(message, "args") or []
    envs = object_field(message, "envs") or {}
    if not cmd:
        raise RpcError(Code.INVALID_ARGUMENT, "no command")
    if not isinstance(args, list) or not all(isinstance(item, str) for item in args):
        raise invalid_field("args")
    if not all(isinstance(value, str) for value in envs.values()):
        raise invalid_field("envs")
    return ProcessConfig(cmd, tuple(args), envs, string_field(message, "cwd"))


def _parse_terminal(message: JsonObject) -> TerminalSize | None:
    terminal = object_field(message, "pty")
    if terminal is None:
        return None
    size = object_field(terminal, "size") or {}
    return TerminalSize(columns=uint32_field(size, "cols") or 80, rows=uint32_field(size, "rows") or 24)


def parse_resize(message: JsonObject) -> TerminalSize | None:
    return _parse_terminal(message)


def parse_selector(message: JsonObject) -> Selector:
    selector = object_field(message, "process") or {}
    parsed = Selector(uint32_field(selector, "pid"), string_field(selector, "tag"))
    if parsed.pid is None and parsed.tag is None:
        raise RpcError(Code.INVALID_ARGUMENT, "no process selected")
    return parsed


def parse_input(message: JsonObject) -> Input:
    content = object_field(message, "input") or {}
    for name, to_terminal in (("stdin", False), ("pty", True)):
        encoded = string_field(content, name)
        if encoded is not None:
            return Input(_decode_bytes(encoded, name), to_terminal)
    raise RpcError(Code.UNIMPLEMENTED, "the input is neither stdin nor pty")


def _decode_bytes(text: str, name: str) -> bytes:
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_field(name) from error


_SIGNALS = {
    "SIGNAL_SIGTERM": signal.SIGTERM,
    "SIGNAL_SIGKILL": signal.SIGKILL,
    15: signal.SIGTERM,
    9: signal.SIGKILL,
}


def parse_signal(message: JsonObject) -> signal.Signals:
    name = field(message, "signal")
    if not isinstance(name, str | int) or name not in _SIGNALS:
        raise RpcError(Code.UNIMPLEMENTED, f"unsupported signal: {name}")
    return _SIGNALS[name]


@dataclass(frozen=True, slots=True)
class StreamStart:
    selector: Selector


def parse_stream_input(message: JsonObject) -> StreamStart | Input | None:
    """Return what one message of StreamInput says; None for a keepalive."""
    if (start := object_field(message, "start")) is not None:
        return StreamStart(parse_selector(start))
    if (data := object_field(message, "data")) is not None:
        return parse_input(data)
    return None


def encode_event(event: Event) -> JsonObject:
    """Return a StartResponse, which a ConnectResponse looks like too."""
    match event:
        case Started(pid):
            body: JsonObject = {"start": {"pid": pid}}
        case Output(channel, data):
            body = {"data": {channel.value: base64.b64encode(data).decode()}}
        case Keepalive():
            body = {"keepalive": {}}
        case Ended():
            end: JsonObject = {"exitCode": event.exit_code, "exited": event.exited, "status": event.status}
            if event.error is not None:
                end["error"] = event.error
            body = {"end": end}
    return {"event": body}
