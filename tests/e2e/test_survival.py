"""What sandboxes and their clients notice when a part of the appliance goes away."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

import pytest

from lab import host
from lab.appliance import cubemastercli, on_machine

pytestmark = pytest.mark.lab


def machine(script: str) -> str:
    """Run a line of shell on the machine."""
    return host.output(on_machine("sh", "-c", script))


# The client stops at `go`, so that the test breaks something between two of its steps, and waits for its answer.
_STEPS = """
import sys
from e2b import Sandbox

def go(what):
    print(what, flush=True)
    sys.stdin.readline()
"""


def test_restart_of_cubelet_loses_no_sandbox_and_no_running_command(stepwise: Callable[..., str]) -> None:
    said = stepwise(
        _STEPS
        + """
with Sandbox.create(template="base", timeout=120) as sandbox:
    heard = []
    count = "for i in $(seq 1 12); do echo $i; sleep 1; done"
    command = sandbox.commands.run(count, background=True)
    go("restart")
    command.wait(on_stdout=heard.append)
    print("heard", *"".join(heard).split())
    print(sandbox.commands.run("echo alive").stdout)
""",
        restart=lambda _: machine("systemctl restart cubelet"),
    )
    assert f"heard {' '.join(map(str, range(1, 13)))}" in said
    assert "alive" in said


# Cubelet's record of a VM names its sandbox and its process.
_KILL_VMM_OF = """
import json, os, pathlib, signal
for path in pathlib.Path('/var/lib/cube/sandboxes').glob('*/record.json'):
    record = json.loads(path.read_text())
    if (record.get('sandbox') or {}).get('sandbox_id') == '%s':
        os.kill(record['process']['pid'], signal.SIGKILL)
        print('killed')
"""


def test_killed_vmm_ends_its_sandbox_with_the_reason(stepwise: Callable[..., str]) -> None:
    said = stepwise(
        _STEPS
        + """
sandbox = Sandbox.create(template="base", timeout=120)
print(sandbox.sandbox_id)
go("kill")
""",
        kill=lambda lines: machine(f"python3 -c {shlex.quote(_KILL_VMM_OF % lines[0])}"),
    )
    sandbox_id = said.split()[0]
    deadline = time.monotonic() + 30
    while (found := cubemastercli("sandbox", "info", sandbox_id))["state"] != "ended" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert (found["state"], found["end_reason"]) == ("ended", "vmm_died")


def test_traffic_goes_on_after_the_cache_of_routes_is_emptied(stepwise: Callable[..., str]) -> None:
    flush = (
        "REDISCLI_AUTH=$(cat /etc/cube/secrets/redis-operator)"
        " redis-cli -s /run/redis/redis-server.sock --user operator --no-auth-warning FLUSHALL"
    )
    said = stepwise(
        _STEPS
        + """
import time
with Sandbox.create(template="base", timeout=120) as sandbox:
    sandbox.commands.run("true")
    go("flush")
    deadline = time.monotonic() + 2
    while True:
        try:
            print(sandbox.commands.run("echo through").stdout)
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
""",
        flush=lambda _: machine(flush),
    )
    assert "through" in said
