"""The stages that make an appliance in the lab, and that remove it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab import host
from lab.appliance import Appliance, inside_lab, inside_machine, on_machine
from lab.first_templates import make_templates
from lab.stages import Stages

_PYTHON = host.VENV / "bin" / "python"
_PLAYBOOK: Sequence[str | Path] = [host.VENV / "bin" / "ansible-playbook", "--inventory", "inventories/lab"]


def up(stages: Stages) -> None:
    """Build everything, deploy it, and run a sandbox by each of the two ways in. Safe to repeat."""
    with stages.stage("guest image"):
        host.run(["/usr/bin/python3", "guest-image/build.py", "all"])
    with stages.stage("offline bundle"):
        host.run([_PYTHON, "-m", "bundle"])
    with stages.stage("lab machines"):
        host.run([*_PLAYBOOK, "playbooks/lab_up.yml"])
    with stages.stage("site.yml"):
        host.run([*_PLAYBOOK, "playbooks/site.yml"])
    with stages.stage("templates"):
        appliance = Appliance.of_lab()
        make_templates()
    with stages.stage("a sandbox by its domain, with TLS"):
        _say_hello(inside_lab, appliance.client_environment())
    with stages.stage("a sandbox by E2B_API_URL and E2B_SANDBOX_URL"):
        _say_hello(inside_machine, appliance.machine_environment())
    _explain(appliance)


def down(stages: Stages) -> None:
    """Remove the lab. What was built and downloaded stays, for the next `make up`."""
    with stages.stage("remove the lab"):
        host.run([*_PLAYBOOK, "playbooks/lab_down.yml"])


def _say_hello(inside: Callable[[Sequence[str | Path]], list[str | Path]], environment: Mapping[str, str]) -> None:
    said = host.output(inside([_PYTHON, "examples/hello.py"]), env=environment)
    print(said, end="", flush=True)
    if f"hello from {platform.release()}" in said or "hello from" not in said:
        sys.exit("the code did not run on a kernel of its own")


def _explain(appliance: Appliance) -> None:
    print(f"""
The appliance is up. Its clients live in the network namespace {host.NAMESPACE}:

    . {appliance.environment_file}        # {", ".join(appliance.client_environment())}
    ip netns exec {host.NAMESPACE} {_PYTHON.relative_to(host.CHECKOUT)} examples/hello.py

    API        https://api.{appliance.domain}        in the machine: http://127.0.0.1:3000
    sandboxes  https://<port>-<sandboxID>.{appliance.domain}
    operator   {host.shown(on_machine("cubemastercli", "node", "list"))}
    remove     make down""")
