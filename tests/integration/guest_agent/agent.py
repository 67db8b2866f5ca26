"""A real agent, as a process of its own on a loopback port, and a raw client for its wire."""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

AGENT_SOURCE = Path(__file__).parents[3] / "guest-image" / "agent"
TOKEN = "0123456789abcdef"
DEADLINE_S = 20.0
_HEADER = struct.Struct(">BI")
END_STREAM = 2


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stream:
    """A server stream that is read message by message."""

    connection: HTTPConnection
    response: HTTPResponse
    end: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (message := self.next()) is not None:
            yield message

    def next(self) -> dict[str, Any] | None:
        """Return the next message, or None after the end-of-stream envelope, kept in `end`."""
        header = self.response.read(_HEADER.size)
        flags, length = _HEADER.unpack(header)
        payload: dict[str, Any] = json.loads(self.response.read(length))
        if flags & END_STREAM:
            self.end = payload
            assert self.response.read() == b""
            return None
        return payload

    def close(self) -> None:
        self.connection.close()


def enveloped(message: dict[str, Any]) -> bytes:
    payload = json.dumps(message).encode()
    return _HEADER.pack(0, len(payload)) + payload


@dataclass
class Agent:
    port: int
    process: subprocess.Popen[str]
    directory: Path
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: bytes = b"", *, headers: dict[str, str] | None = None) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, {**self._proof(), **(headers or {})})
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read())
        finally:
            connection.close()

    def init(self, **body: Any) -> Answer:
        """Send /init as the node does, and use its token from now on."""
        answer = self.request("POST", "/init", json.dumps(body).encode())
        if answer.status == 204:
            self.token = body.get("accessToken")
        return answer

    def call(self, procedure: str, message: dict[str, Any], *, user: str | None = None, **headers: str) -> Answer:
        """Make a unary call."""
        sent = {"Content-Type": "application/json", "Connect-Protocol-Version": "1", **self._user(user), **headers}
        return self.request("POST", "/" + procedure, json.dumps(message).encode(), headers=sent)

    def stream(self, procedure: str, message: dict[str, Any], *, user: str | None = None, **headers: str) -> Stream:
        """Begin a server stream; the caller closes it."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        sent = {"Content-Type": "application/connect+json", **self._proof(), **self._user(user), **headers}
        connection.request("POST", "/" + procedure, enveloped(message), sent)
        response = connection.getresponse()
        assert response.status == 200
        return Stream(connection, response)

    def start(
        self,
        *argv: str,
        user: str | None = None,
        timeout_ms: int = 20_000,
        headers: dict[str, str] | None = None,
        **request: Any,
    ) -> Stream:
        process = {"cmd": argv[0], "args": list(argv[1:]), **request.pop("process", {})}
        message = {"process": process, "stdin": False, **request}
        sent = {"Connect-Timeout-Ms": str(timeout_ms), **(headers or {})}
        return self.stream("process.Process/Start", message, user=user, **sent)

    def run(self, *argv: str, **options: Any) -> Run:
        """Run a program to its end."""
        stream = self.start(*argv, **options)
        try:
            return collect(stream)
        finally:
            stream.close()

    def _proof(self) -> dict[str, str]:
        return {"X-Access-Token": self.token} if self.token is not None else {}

    @staticmethod
    def _user(name: str | None) -> dict[str, str]:
        if name is None:
            return {}
        return {"Authorization": "Basic " + b64(f"{name}:".encode())}


@dataclass
class Run:
    """What a finished stream said."""

    pid: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    pty: bytes = b""
    exit: dict[str, Any] | None = None
    end: dict[str, Any] | None = None


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def collect(stream: Stream) -> Run:
    """Read a process stream to its end, checking the order the SDKs rely on."""
    run = Run()
    for message in stream:
        event = message["event"]
        assert run.exit is None, "an event came after the end"
        if "start" in event:
            assert run.pid == 0
            run.pid = event["start"]["pid"]
        elif "data" in event:
            assert run.pid != 0, "data came before start"
            for channel, data in event["data"].items():
                setattr(run, channel, getattr(run, channel) + base64.b64decode(data))
        elif "end" in event:
            run.exit = event["end"]
    run.end = stream.end
    return run


def spawn_agent(directory: Path, *extra: str) -> Agent:
    """Start an agent that leaves the machine's clock and names alone, and takes /init from loopback."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(AGENT_SOURCE), "PYTHONDEVMODE": "1"}
    with (directory / "agent.log").open("a") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "guest_agent",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--borrowed-machine",
                "--state-file",
                str(directory / "state.json"),
                "--marker-directory",
                str(directory / "e2b"),
                *extra,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("listening on "):
        process.stdout.close()
        process.kill()
        process.wait()
        pytest.fail((directory / "agent.log").read_text())
    return Agent(int(line.split()[-1]), process, directory)


@contextmanager
def running_agent(directory: Path, *extra: str) -> Iterator[Agent]:
    """Yield an agent, and stop it. It must have stopped by itself within the deadline and logged no defect."""
    agent = spawn_agent(directory, *extra)
    try:
        yield agent
    finally:
        agent.process.send_signal(signal.SIGTERM)
        try:
            agent.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            agent.process.kill()
            agent.process.wait()
            raise
        finally:
            assert agent.process.stdout is not None
            agent.process.stdout.close()
    log = (directory / "agent.log").read_text()
    assert "Traceback" not in log, log
    assert "Warning" not in log, log
