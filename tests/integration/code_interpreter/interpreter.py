"""A code interpreter as a sandbox runs it, on loopback ports of its own, and a client for it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from e2b import ConnectionConfig
from e2b_code_interpreter import Sandbox
from packaging.version import Version

from tests.integration.code_interpreter.programs import CODE_INTERPRETER, Programs
from tests.support.ports import free_port

_READY_DEADLINE_S = 120
_STOP_DEADLINE_S = 20


@dataclass(frozen=True, slots=True)
class Interpreter:
    url: str
    jupyter_url: str
    home: Path
    supervisor: int  # process id
    environment: Mapping[str, str]  # of the supervisor

    def sandbox(self, access_token: str | None = None) -> Sandbox:
        """Return an unmodified SDK's sandbox whose code interpreter is this one."""
        return Sandbox(
            sandbox_id="itest",
            sandbox_domain=None,
            envd_version=Version("0.6.13"),
            envd_access_token=access_token,
            traffic_access_token=None,
            connection_config=ConnectionConfig(sandbox_url=self.url, api_key="e2b_" + "0" * 40),
        )

    def execute(self, code: str, **fields: Any) -> list[dict[str, Any]]:
        """Run code and return the lines of the answer."""
        answer = httpx.post(f"{self.url}/execute", json={"code": code, **fields}, timeout=60)
        answer.raise_for_status()
        return [json.loads(line) for line in answer.text.splitlines()]

    def child(self, text: str) -> int:
        """Return the process of the supervisor whose command line contains `text`."""
        return child_process(self.supervisor, text)

    def kernel(self, context_id: str) -> int:
        """Return the process of a context's kernel."""
        return child_process(self.child("jupyter server"), f"kernel-{context_id}")

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + _READY_DEADLINE_S
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).json() == "OK":
                    return
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)


@contextmanager
def running_interpreter(programs: Programs, directory: Path, envs_url: str) -> Iterator[Interpreter]:
    """Run the start script until the block ends."""
    home = directory / "home"
    home.mkdir()
    port, jupyter_port = free_port(), free_port()
    environment = {
        "PATH": f"{programs.kernel_bin}:{programs.node_modules / '.bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NODE_PATH": str(programs.node_modules),
        "CODE_INTERPRETER_PYTHON": str(programs.server_python),
        "CODE_INTERPRETER_HOME": str(home),
        "CODE_INTERPRETER_HOST": "127.0.0.1",
        "CODE_INTERPRETER_PORT": str(port),
        "CODE_INTERPRETER_JUPYTER_PORT": str(jupyter_port),
        "CODE_INTERPRETER_ENVS_URL": envs_url,
        "CODE_INTERPRETER_WARM_IMPORTS": "",
    }
    with (directory / "log").open("wb") as log:
        supervisor = subprocess.Popen(
            [str(CODE_INTERPRETER / "start.sh")], cwd=home, env=environment, stdout=log, stderr=log
        )
        interpreter = Interpreter(
            url=f"http://127.0.0.1:{port}",
            jupyter_url=f"http://127.0.0.2:{jupyter_port}",
            home=home,
            supervisor=supervisor.pid,
            environment=environment,
        )
        try:
            interpreter.wait_until_healthy()
            yield interpreter
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(_STOP_DEADLINE_S)


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def descendants(process: int) -> list[int]:
    found = children(process)
    for child in found:
        found += children(child)
    return found


def child_process(parent: int, text: str) -> int:
    """Return the child whose command line contains `text`. Raises `LookupError`."""
    for child in children(parent):
        command_line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        if text in command_line:
            return child
    raise LookupError(text)
