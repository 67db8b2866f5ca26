"""Messages of process.Process in proto3 JSON."""

from __future__ import annotations

import base64
import binascii
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from guest_agent.envelope import JsonObject
from guest_agent.errors import Code, RpcError
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


def field(message: JsonObject, name: str) -> object:
    """Return a field by its proto name, written camelCase or as it is; None where absent."""
    head, *tail = name.split("_")
    camel = head + "".join(part.capitalize() for part in tail)
    return message.get(camel, message.get(name))


def _object(message: JsonObject, name: str) -> JsonObject | None:
    value = field(message, name)
    if value is not None and not isinstance(value, dict):
        raise _invalid(name)
    return value


def _string(message: JsonObject, name: str) -> str | None:
    value = field(message, name)
    if value is not None and not isinstance(value, str):
        raise _invalid(name)
    return value


def _uint32(message: JsonObject, name: str) -> int | None:
    value = field(message, name)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32):
        raise _invalid(name)
    return value


def _invalid(name: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"invalid value of field '{name}'")


def parse_start(message: JsonObject) -> StartRequest:
    stdin = field(message, "stdin")
    return StartRequest(
        config=_parse_config(_object(message, "process") or {}),
        terminal=_parse_terminal(message),
        tag=_string(message, "tag"),
        stdin=stdin is None or stdin is True,
    )


def _parse_config(message: JsonObject) -> ProcessConfig:
    cmd = _string(message, "cmd")
    args = field(message, "args") or []
    envs = _object(message, "envs") or {}
    if not cmd:
        raise RpcError(Code.INVALID_ARGUMENT, "no command")
    if not isinstance(args, list) or not all(isinstance(item, str) for item in args):
        raise _invalid("args")
    if not all(isinstance(value, str) for value in envs.values()):
        raise _invalid("envs")
    return ProcessConfig(cmd, tuple(args), envs, _string(message, "cwd"))


def _parse_terminal(message: JsonObject) -> TerminalSize | None:
    terminal = _object(message, "pty")
    if terminal is None:
        return None
    size = _object(terminal, "size") or {}
    return TerminalSize(columns=_uint32(size, "cols") or 80, rows=_uint32(size, "rows") or 24)


def parse_resize(message: JsonObject) -> TerminalSize | None:
    return _parse_terminal(message)


def parse_selector(message: JsonObject) -> Selector:
    selector = _object(message, "process") or {}
    parsed = Selector(_uint32(selector, "pid"), _string(selector, "tag"))
    if parsed.pid is None and parsed.tag is None:
        raise RpcError(Code.INVALID_ARGUMENT, "no process selected")
    return parsed


def parse_input(message: JsonObject) -> Input:
    content = _object(message, "input") or {}
    for name, to_terminal in (("stdin", False), ("pty", True)):
        encoded = _string(content, name)
        if encoded is not None:
            return Input(_decode_bytes(encoded, name), to_terminal)
    raise RpcError(Code.UNIMPLEMENTED, "the input is neither stdin nor pty")


def _decode_bytes(text: str, name: str) -> bytes:
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(name) from error


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
    if (start := _object(message, "start")) is not None:
        return StreamStart(parse_selector(start))
    if (data := _object(message, "data")) is not None:
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
