"""What the start script does when what it started dies."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.code_interpreter.interpreter import Interpreter, child_process, descendants, running_interpreter
from tests.integration.code_interpreter.programs import CODE_INTERPRETER, Programs


@pytest.fixture
def own_interpreter(programs: Programs, envs_url: str, tmp_path: Path) -> Iterator[Interpreter]:
    with running_interpreter(programs, tmp_path, envs_url) as running:
        yield running


def wait_until_replaced(interpreter: Interpreter, name: str, killed: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(LookupError, FileNotFoundError):
            if interpreter.child(name) != killed:
                return
        time.sleep(0.05)
    raise TimeoutError(name)


def wait_for_child(process: int, name: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(LookupError, FileNotFoundError):
            child_process(process, name)
            return
        time.sleep(0.05)  # another's child tells nobody that it is there
    raise TimeoutError(name)


def processes_in(directory: Path) -> list[int]:
    """Return the processes that work in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == directory:
                found.append(int(process.name))
    return found


def listening_addresses(processes: Collection[int]) -> set[str]:
    """Return the local addresses at which processes listen for TCP connections."""
    sockets = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                sockets.add(str(descriptor.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                assert table == "tcp", local
                found.add(socket.inet_ntoa(bytes.fromhex(local.partition(":")[0])[::-1]))
    return found


def wake_ups(process: int) -> int:
    """Return how often the threads of a process have gone to sleep."""
    statuses = [status.read_text() for status in Path(f"/proc/{process}/task").glob("*/status")]
    name = "voluntary_ctxt_switches:"
    return sum(
        int(line.removeprefix(name)) for status in statuses for line in status.splitlines() if line.startswith(name)
    )


# The names by which the clients' own tests look for the processes.
@pytest.mark.parametrize("name", ["jupyter server", "jupyter-server", "uvicorn main:app"])
def test_a_killed_process_is_replaced(own_interpreter: Interpreter, name: str) -> None:
    killed = own_interpreter.child(name)
    own_interpreter.sandbox().run_code("lost = 1")
    os.kill(killed, signal.SIGKILL)
    wait_until_replaced(own_interpreter, name, killed)
    own_interpreter.wait_until_healthy()
    sandbox = own_interpreter.sandbox()
    error = sandbox.run_code("lost").error
    assert error is not None
    assert error.name == "NameError"
    assert {context.language for context in sandbox.list_code_contexts()} == {"python", "javascript"}


def test_only_the_server_is_reached_from_outside(own_interpreter: Interpreter) -> None:
    """The guest agent forwards what listens on 127.0.0.1, and what listens on no address in particular is there."""
    sandbox = own_interpreter.sandbox()
    for language in ("python", "javascript", "bash"):
        sandbox.run_code("1", language=language)
    server = own_interpreter.child("uvicorn main:app")
    inside = set(descendants(own_interpreter.supervisor)) - {server}
    assert listening_addresses(inside) == {"127.0.0.2"}
    assert listening_addresses({server}) == {"127.0.0.1"}  # where these tests ask it to listen


def test_an_idle_server_sleeps(own_interpreter: Interpreter) -> None:
    own_interpreter.sandbox().run_code("1")
    process = own_interpreter.child("uvicorn main:app")
    before = wake_ups(process)
    time.sleep(3)  # there is nothing to wait for: the point is that nothing happens
    # uvicorn by itself wakes up 30 times in this time.
    assert wake_ups(process) - before < 10


def test_stopping_leaves_no_process(programs: Programs, envs_url: str, tmp_path: Path) -> None:
    with running_interpreter(programs, tmp_path, envs_url) as running:
        running.sandbox().run_code("1", language="javascript")
        assert processes_in(running.home)
    assert processes_in(running.home) == []


def test_a_second_start_waits_for_the_end_of_the_first(programs: Programs, envs_url: str, tmp_path: Path) -> None:
    with running_interpreter(programs, tmp_path, envs_url) as first:
        second = subprocess.Popen([str(CODE_INTERPRETER / "start.sh")], cwd=first.home, env=first.environment)
        try:
            wait_for_child(second.pid, "flock")
            first.sandbox().run_code("kept = 1")
            assert second.poll() is None
            assert first.sandbox().run_code("kept").text == "1"
            os.kill(first.supervisor, signal.SIGTERM)
            wait_for_child(second.pid, "uvicorn main:app")
            first.wait_until_healthy()
            assert first.sandbox().run_code("'kept' in globals()").text == "False"
        finally:
            second.terminate()
            second.wait(30)
