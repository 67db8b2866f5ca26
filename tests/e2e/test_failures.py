"""What an operator does to a running appliance, and what breaks by itself: its users must hardly notice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import host
from lab.appliance import Appliance, cubemastercli, inside_lab, on_machine

pytestmark = pytest.mark.lab

DEADLINE_S = 120


class Session:
    """A program of an E2B user that goes on while the test does something to the appliance."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdin is not None
        self._output, self._input = process.stdout, process.stdin

    def line(self) -> str:
        """Return its next line of output."""
        line = self._output.readline()
        if not line:
            _, errors = self._process.communicate(timeout=DEADLINE_S)
            raise AssertionError(f"the program ended early:\n{errors}")
        return line.strip()

    def go_on(self) -> None:
        self._input.write("\n")
        self._input.flush()


@contextmanager
def session(appliance: Appliance, program: str) -> Iterator[Session]:
    process = subprocess.Popen(
        inside_lab([host.VENV / "bin" / "python", "-u", "-c", program]),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **appliance.client_environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Session(process)
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


COUNTING = """
import threading
from e2b import Sandbox

sandbox = Sandbox.create(template="base", timeout=300)
print(sandbox.sandbox_id)
seen = []
first = threading.Event()

def count(text):
    seen.extend(text.split())
    first.set()

def stream():
    command = "for n in $(seq 40); do echo $n; sleep 0.25; done"
    try:
        sandbox.commands.run(command, on_stdout=count, timeout=120)
    except Exception as error:
        seen.append(f"{type(error).__name__}: {error}")

thread = threading.Thread(target=stream)
thread.start()
assert first.wait(60)
print("streaming")
input()
"""


def test_a_restart_of_cubelet_interrupts_nothing(appliance: Appliance) -> None:
    program = COUNTING + (
        "thread.join(120)\n"
        "print(seen == [str(n) for n in range(1, 41)], seen[-1])\n"
        "print(sandbox.commands.run('echo alive').stdout.strip())\n"
        "print(sandbox.kill())\n"
    )
    with session(appliance, program) as user:
        sandbox_id = user.line()
        assert user.line() == "streaming"
        host.output(on_machine("systemctl", "restart", "cubelet"))
        user.go_on()
        assert user.line() == "True 40"
        assert user.line() == "alive"
        assert user.line() == "True"
    ended = cubemastercli("sandbox", "info", sandbox_id)
    assert ended["end_reason"] == "killed"


def test_a_dead_vmm_ends_its_sandbox_with_the_reason_and_frees_what_it_held(appliance: Appliance) -> None:
    program = COUNTING + "thread.join(60)\nprint(seen[-1])\nprint(sandbox.is_running())\n"
    with session(appliance, program) as user:
        sandbox_id = user.line()
        assert user.line() == "streaming"
        # The record that names the sandbox is beside the VM's id, which QEMU carries as the guest's name.
        find = f"grep -l {sandbox_id} /var/lib/cube/sandboxes/*/record.json"
        vm_id = host.output(on_machine("sh", "-c", find)).strip().split("/")[-2]
        pid = host.output(on_machine("pgrep", "-f", f"guest={vm_id} ")).split()[0]
        host.output(on_machine("kill", "-9", pid))
        user.go_on()
        assert "killed or reached its end of life" in user.line()
        assert user.line() == "False"
    until = time.monotonic() + DEADLINE_S
    while (ended := cubemastercli("sandbox", "info", sandbox_id))["state"] != "ended":
        assert time.monotonic() < until, ended
        time.sleep(0.5)
    assert ended["end_reason"] == "vmm_died"
    left = host.output(on_machine("sh", "-c", f"ls -d /var/lib/cube/sandboxes/{vm_id} /run/cube/vm/{vm_id} || true"))
    assert left == ""


def test_an_emptied_redis_is_filled_again_while_traffic_goes_on(appliance: Appliance) -> None:
    program = """
import time
from e2b import Sandbox

with Sandbox.create(template="base", timeout=120) as sandbox:
    sandbox.commands.run("true")
    print("up")
    input()
    begun, worst, failures = time.monotonic(), 0.0, []
    while time.monotonic() - begun < 6:
        asked = time.monotonic()
        try:
            assert sandbox.commands.run("echo x").stdout == "x\\n"
        except Exception as error:
            failures.append((time.monotonic() - begun, repr(error)))
    late = [failure for failure in failures if failure[0] > 2]
    print(len(late), failures[:3])
"""
    with session(appliance, program) as user:
        assert user.line() == "up"
        flush = 'redis-cli -s /run/redis/redis-server.sock --no-auth-warning -a "$(cat /etc/cube/secrets/{})" FLUSHALL'
        passwords = host.output(on_machine("ls", "/etc/cube/secrets")).split()
        secret = next(name for name in passwords if "redis" in name)
        host.output(on_machine("sh", "-c", flush.format(secret)))
        user.go_on()
        late = user.line()
    assert late.startswith("0 "), late


def test_a_node_that_is_down_is_said_to_be(appliance: Appliance) -> None:
    program = """
from e2b import Sandbox, SandboxException
try:
    Sandbox.create(template="base", timeout=60, request_timeout=60)
except Exception as error:
    print(str(error).replace("\\n", " "))
"""
    host.output(on_machine("systemctl", "stop", "cubelet"))
    try:
        with session(appliance, program) as user:
            said = user.line()
    finally:
        host.output(on_machine("systemctl", "start", "cubelet"))
    assert "node" in said, said
