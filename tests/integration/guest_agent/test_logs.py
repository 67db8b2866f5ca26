from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from appliance.clients.guest import GuestClient
from appliance.clients.guest_logs import GuestLogEntry, LogCursor
from tests.integration.guest_agent.agent import TOKEN, Agent, running_agent, spawn_agent

pytestmark = pytest.mark.root


def logs(agent: Agent, *, epoch: str = "", after: int = 0) -> dict[str, Any]:
    answer = agent.request("GET", f"/logs?epoch={epoch}&after={after}")
    assert answer.status == 200, answer.body
    page: dict[str, Any] = answer.json
    return page


def told(page: dict[str, Any], pid: int) -> list[tuple[str, str, str]]:
    """Return type of event, level and message of a process's entries."""
    return [
        (entry["fields"].get("event_type", ""), entry["level"], entry["message"])
        for entry in page["entries"]
        if entry["fields"].get("pid") == str(pid)
    ]


def test_a_process_is_logged_from_its_start_to_its_end(agent: Agent) -> None:
    before = logs(agent)
    script = "echo out; echo err >&2; exit 3"
    run = agent.run("/bin/sh", "-c", script, tag="task", process={"envs": {"SECRET": "hidden-value"}})
    page = logs(agent, epoch=before["epoch"], after=before["next"])
    entries = told(page, run.pid)
    assert entries[0] == ("", "info", f"Process started: /bin/sh -c {script}")
    assert sorted(entries[1:3]) == [("stderr", "info", "err"), ("stdout", "info", "out")]
    assert entries[3] == ("", "info", "Process ended: exit status 3")
    started, *_, ended = page["entries"]
    assert started["fields"] == {"pid": str(run.pid), "cmd": f"/bin/sh -c {script}", "tag": "task"}
    assert ended["fields"]["exit_code"] == "3"
    assert {entry["logger"] for entry in page["entries"]} == {"process"}
    assert "hidden-value" not in str(page)
    assert logs(agent, epoch=page["epoch"], after=page["next"])["entries"] == []


def test_what_does_not_start_is_an_error_in_the_log(agent: Agent) -> None:
    before = logs(agent)
    agent.run("no-such-program")
    (entry,) = logs(agent, epoch=before["epoch"], after=before["next"])["entries"]
    assert (entry["level"], entry["logger"]) == ("error", "process")
    assert "no-such-program" in entry["message"]


def test_terminals_and_programs_nobody_listens_to_are_logged_too(agent: Agent) -> None:
    before = logs(agent)
    run = agent.run("/bin/sh", "-c", "echo shown", pty={"size": {}})
    page = logs(agent, epoch=before["epoch"], after=before["next"])
    assert ("pty", "debug", "shown") in told(page, run.pid)


def test_the_log_is_for_the_node_with_the_token(tmp_path: Path, agent: Agent) -> None:
    stranger = Agent(agent.port, agent.process, agent.directory)
    for path in ("/logs", "/logs?signature=v1_x"):
        assert stranger.request("GET", path).status == 401
    assert agent.request("GET", "/logs?after=x").status == 400
    # The state of an agent that has a session, for one that takes nothing from loopback.
    (tmp_path / "state.json").write_text((agent.directory / "state.json").read_text())
    with running_agent(tmp_path) as guarded:
        guarded.token = TOKEN
        assert guarded.request("GET", "/logs").status == 403


def test_the_log_of_the_template_is_not_the_sandboxes(tmp_path: Path) -> None:
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as agent:
        agent.init(sandboxId="pool")
        agent.run("/bin/echo", "warm")
        assert logs(agent)["entries"]
        agent.init(sandboxId="isandbox", accessToken=TOKEN)
        assert logs(agent)["entries"] == []
        agent.run("/bin/echo", "mine")
        agent.init(sandboxId="isandbox", accessToken=TOKEN)
        assert "mine" in [entry["message"] for entry in logs(agent)["entries"]]


def test_the_next_agent_says_what_it_took_over_under_an_epoch_of_its_own(tmp_path: Path) -> None:
    first = spawn_agent(tmp_path, "--init-from", "127.0.0.1")
    first.init(accessToken=TOKEN)
    stream = first.start("/bin/sleep", "100")
    message = stream.next()
    assert message is not None
    pid = message["event"]["start"]["pid"]
    before = logs(first)
    first.process.kill()
    first.process.wait()
    assert first.process.stdout is not None
    first.process.stdout.close()
    stream.close()
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as second:
        second.token = TOKEN
        page = logs(second, epoch=before["epoch"], after=before["next"])
        assert page["epoch"] != before["epoch"]
        assert told(page, pid) == [("", "warn", "Process taken over from an agent that ended")]
        second.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})


async def test_the_nodes_client_reads_it_page_by_page(agent: Agent) -> None:
    run = agent.run("/bin/sh", "-c", "echo 'quoted \"'; head -c 100000 /dev/zero")
    for _ in range(30):
        agent.run("/usr/bin/seq", "1600")
    guest = GuestClient(IPv4Address("127.0.0.1"), port=agent.port)
    _, end = await guest.usage(access_token=TOKEN, deadline=timedelta(seconds=10))
    cursor, pages = LogCursor(), 0
    entries: list[GuestLogEntry] = []
    try:
        while True:
            page = await guest.logs(cursor, access_token=TOKEN, deadline=timedelta(seconds=10))
            if not page.entries:
                break
            entries += page.entries
            cursor, pages = page.cursor, pages + 1
    finally:
        await guest.close()
    assert pages > 1
    assert cursor == end
    own = [entry for entry in entries if entry.fields.get("pid") == str(run.pid)]
    assert own[1].message == 'quoted "'
    assert own[-1].message == "Process ended: exit status 0"
