from __future__ import annotations

import base64
import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.guest_agent.agent import DEADLINE_S, TOKEN, Agent, Stream, collect, running_agent, spawn_agent

pytestmark = pytest.mark.root
LOOP = "trap 'echo bye; exit 0' USR1; echo ready; while :; do sleep 0.05; echo tick; done"


def stdout_of(message: dict[str, dict[str, dict[str, str]]] | None) -> bytes:
    assert message is not None
    return base64.b64decode(message["event"].get("data", {}).get("stdout", ""))


def until_output(stream: Stream, wanted: bytes) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while wanted not in stdout_of(stream.next()):
        assert time.monotonic() < deadline


def crash(agent: Agent) -> None:
    """End the agent as the kernel would, without a chance to tidy up."""
    agent.process.kill()
    agent.process.wait()
    assert agent.process.stdout is not None
    agent.process.stdout.close()


def listed(agent: Agent) -> dict[int, str]:
    processes = agent.call("process.Process/List", {}).json["processes"]
    return {process["pid"]: process["config"]["cmd"] for process in processes}


@pytest.mark.parametrize("user", ["root", "www-data"])
def test_a_process_goes_on_under_the_next_agent(tmp_path: Path, user: str) -> None:
    first = spawn_agent(tmp_path, "--init-from", "127.0.0.1")
    assert first.init(accessToken=TOKEN).status == 204
    before = first.start("/bin/sh", "-c", LOOP, user=user, process={"cwd": "/"})
    start = before.next()
    assert start is not None
    pid = start["event"]["start"]["pid"]
    until_output(before, b"ready\n")
    crash(first)
    before.close()

    with running_agent(tmp_path) as second:
        second.token = TOKEN
        assert listed(second)[pid] == "/bin/sh"
        after = second.stream("process.Process/Connect", {"process": {"pid": pid}})
        assert after.next() == {"event": {"start": {"pid": pid}}}
        until_output(after, b"tick\n")
        os.kill(pid, signal.SIGUSR1)
        until_output(after, b"bye\n")
        end = after.next()
        assert end is not None
        assert end["event"]["end"]["status"].startswith("exit status unknown")
        assert after.next() is None
        after.close()
        assert pid not in listed(second)


def test_an_adopted_process_can_be_killed(tmp_path: Path) -> None:
    first = spawn_agent(tmp_path, "--init-from", "127.0.0.1")
    first.init(accessToken=TOKEN)
    stream = first.start("/bin/sleep", "100")
    start = stream.next()
    assert start is not None
    selector = {"process": start["event"]["start"]}
    crash(first)
    stream.close()
    with running_agent(tmp_path) as second:
        second.token = TOKEN
        after = second.stream("process.Process/Connect", selector)
        assert second.call("process.Process/SendSignal", {**selector, "signal": "SIGNAL_SIGKILL"}).status == 200
        assert collect(after).exit is not None
        after.close()


def test_the_processes_of_an_agent_that_lives_are_not_touched(agent: Agent, tmp_path: Path) -> None:
    stream = agent.start("/bin/sleep", "100")
    start = stream.next()
    assert start is not None
    pid = start["event"]["start"]["pid"]
    (tmp_path / "state.json").write_text((agent.directory / "state.json").read_text())
    with running_agent(tmp_path) as other:
        other.token = TOKEN
        assert pid not in listed(other)
    agent.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})
    stream.close()
