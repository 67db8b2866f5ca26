"""What a user does first, and what an operator sees then."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest

from lab.appliance import Appliance, cubemastercli

pytestmark = pytest.mark.lab

Client = Callable[[str], str]


def test_five_sandboxes_at_once_run_code_commands_and_files_each_on_its_own(client: Client) -> None:
    said = client(
        """
from concurrent.futures import ThreadPoolExecutor
from e2b_code_interpreter import Sandbox

def use(number):
    with Sandbox.create(template="code-interpreter-v1", timeout=120) as sandbox:
        sandbox.files.write("/home/user/number", str(number))
        code = "print(open('/home/user/number').read())"
        counted = "".join(sandbox.run_code(code).logs.stdout).strip()
        kernel = sandbox.commands.run("uname -r").stdout.strip()
        return sandbox.sandbox_id, counted, kernel

with ThreadPoolExecutor(5) as pool:
    for answer in pool.map(use, range(5)):
        print(*answer)
"""
    )
    answers = [line.split() for line in said.splitlines()]
    assert [counted for _, counted, _ in answers] == ["0", "1", "2", "3", "4"]
    assert len({sandbox_id for sandbox_id, _, _ in answers}) == 5
    assert platform.release() not in {kernel for _, _, kernel in answers}


def test_sandbox_reaches_neither_another_sandbox_nor_the_node(client: Client) -> None:
    said = client(
        """
from e2b import Sandbox

# All at once: those that nobody answers take their whole time.
PROBE = "(timeout 10 bash -c 'exec 3<>/dev/tcp/{0}/{1}' && echo {0} {1} open || echo {0} {1} closed) 2>/dev/null &\\n"

with Sandbox.create(template="base", timeout=120) as one, Sandbox.create(template="base", timeout=120) as other:
    assert one.is_running()
    probes = [PROBE.format(address, port) for address, port in [
        ("127.0.0.1", 49983),
        *((f"10.88.0.{host}", 49983) for host in range(2, 12)),
        ("10.88.0.1", 22), ("10.88.0.1", 53), ("198.18.0.11", 22), ("198.18.0.11", 443), ("198.18.0.11", 3000),
        ("169.254.0.22", 22), ("169.254.0.22", 3000),
    ]]
    print(other.commands.run("".join(probes) + "wait").stdout)
"""
    )
    answers = [line.split() for line in said.splitlines() if line]
    assert len(answers) == 18
    assert ["127.0.0.1", "49983", "open"] in answers  # the probe itself can tell
    assert {tuple(answer) for answer in answers if answer[2] == "open"} == {("127.0.0.1", "49983", "open")}


def test_wrong_key_is_refused_with_its_cause(client: Client) -> None:
    said = client(
        """
from e2b import AuthenticationException, Sandbox

try:
    Sandbox.create(template="base", api_key="e2b_" + "0" * 40)
except AuthenticationException as error:
    print("refused:", error)
"""
    )
    assert said.startswith("refused: ")


def test_unknown_template_is_named(client: Client) -> None:
    said = client(
        """
from e2b import Sandbox, SandboxException

try:
    Sandbox.create(template="no-such-template")
except SandboxException as error:
    print(error)
"""
    )
    assert "no-such-template" in said


def test_killed_sandbox_leaves_the_list(client: Client) -> None:
    sandbox_id = client(
        """
from e2b import Sandbox

sandbox = Sandbox.create(template="base", timeout=60)
sandbox.kill()
print(sandbox.sandbox_id)
"""
    ).strip()
    assert sandbox_id not in {one["sandbox_id"] for one in cubemastercli("sandbox", "list")}


def test_key_is_not_shown_again(appliance: Appliance) -> None:
    assert appliance.api_key not in str(cubemastercli("key", "list"))
