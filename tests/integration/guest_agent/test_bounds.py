"""No client, with a token or without, makes the agent hold more than it can, or stop answering the others."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from guest_agent.errors import RpcError
from guest_agent.filesystem import service
from guest_agent.filesystem.watch.service import MAX_WATCHERS
from guest_agent.users import UserDatabase
from tests.integration.guest_agent.agent import DEADLINE_S, TOKEN, Agent, Stream, collect, running_agent

pytestmark = pytest.mark.root


def memory_kib(agent: Agent) -> int:
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def answers_soon(agent: Agent) -> bool:
    before = time.monotonic()
    return agent.request("GET", "/health").status == 204 and time.monotonic() - before < 5


ENDLESS_HEADS = {
    "header": b"GET /health HTTP/1.1\r\nX: ",
    "path": b"GET /",
    "trailer": b"POST /init HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
}


@pytest.mark.parametrize("opening", ENDLESS_HEADS.values(), ids=ENDLESS_HEADS.keys())
def test_a_head_without_end_is_refused(agent: Agent, opening: bytes) -> None:
    before = memory_kib(agent)
    assert is_cut_off(agent, opening)
    assert memory_kib(agent) - before < 20_000
    assert answers_soon(agent)


def is_cut_off(agent: Agent, opening: bytes) -> bool:
    """Send `opening` and 100 MB more; return whether the agent closed the connection meanwhile."""
    with socket.create_connection(("127.0.0.1", agent.port), timeout=DEADLINE_S) as connection:
        try:
            connection.sendall(opening)
            for _ in range(1000):
                connection.sendall(b"a" * 100_000)
        except ConnectionError:
            return True
    return False


def test_a_client_that_leaves_during_a_large_download_does_not_keep_the_agent_busy(
    agent: Agent, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 200 * 2**30)
    with socket.create_connection(("127.0.0.1", agent.port), timeout=DEADLINE_S) as connection:
        head = f"GET /files?path={large} HTTP/1.1\r\nHost: x\r\nX-Access-Token: {TOKEN}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert answers_soon(agent)


@pytest.mark.parametrize("path", ["/init", "/files/compose"])
def test_documents_have_a_largest_size(agent: Agent, path: str) -> None:
    answer = agent.request("POST", path, b" " * (9 * 1024 * 1024))
    assert (answer.status, answer.json["code"]) == (413, 413)


def test_absurd_numbers_are_refused_and_no_defect(agent: Agent, tmp_path: Path) -> None:
    digits = "9" * 5000
    stranger = Agent(agent.port, agent.process, agent.directory)
    expiring = stranger.request("GET", f"/files?path=/x&signature=v1_x&signature_expiration={digits}")
    assert expiring.json == {"code": 401, "message": "invalid signature expiration"}
    (tmp_path / "f").write_bytes(b"abc")
    ranged = agent.request("GET", f"/files?path={tmp_path}/f", headers={"Range": f"bytes=0-{digits}"})
    assert (ranged.status, ranged.body) == (200, b"abc")
    assert agent.call("process.Process/SendSignal", {"process": {"pid": digits}}).json["code"] == "invalid_argument"
    for interval in (digits, "²", "999999999"):
        run = agent.run("/bin/true", headers={"Keepalive-Ping-Interval": interval})
        assert run.exit is not None
        assert run.exit["exitCode"] == 0


def test_strings_that_are_no_text_and_endless_nesting_are_invalid_arguments(agent: Agent) -> None:
    for method, message in (
        ("filesystem.Filesystem/Stat", b'{"path": "/\\ud800"}'),
        ("filesystem.Filesystem/ListDir", b'{"path": "/\\ud800"}'),
        ("process.Process/List", b'{"a":' * 100_000),
    ):
        answer = agent.request("POST", f"/{method}", message, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.json["code"]) == (400, "invalid_argument"), method


def test_there_are_not_endless_watchers(tmp_path: Path) -> None:
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as agent:
        agent.init(accessToken=TOKEN)
        codes = [
            agent.call("filesystem.Filesystem/CreateWatcher", {"path": str(tmp_path)}).json.get("code")
            for _ in range(MAX_WATCHERS + 1)
        ]
        assert codes[-1] == "resource_exhausted"
        assert answers_soon(agent)


def test_a_listing_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_ENTRIES", 3)
    for name in "abc":
        (tmp_path / name).touch()
    assert len(service.list_tree(str(tmp_path), 1, UserDatabase())) == 3
    (tmp_path / "d").touch()
    with pytest.raises(RpcError, match="ask for fewer levels"):
        service.list_tree(str(tmp_path), 1, UserDatabase())


def test_listeners_that_do_not_read_cost_little(agent: Agent) -> None:
    before = memory_kib(agent)
    first = agent.start("/bin/sh", "-c", "head -c 50000000 /dev/zero; sleep 1")
    message = first.next()
    assert message is not None
    selector = {"process": message["event"]["start"]}
    idle: list[Stream] = [agent.stream("process.Process/Connect", selector) for _ in range(5)]
    time.sleep(1)
    assert memory_kib(agent) - before < 40_000
    for stream in idle:
        stream.response.close()
        stream.close()
    agent.call("process.Process/SendSignal", {**selector, "signal": 9})
    first.response.close()
    first.close()


def test_programs_go_before_the_agent_when_memory_runs_out(agent: Agent) -> None:
    score = Path(f"/proc/{agent.process.pid}/oom_score_adj")
    own = score.read_text()
    # The first thing a program does is to start another one.
    run = agent.run("/bin/sh", "-c", "cat /proc/self/oom_score_adj; (cat /proc/self/oom_score_adj)", user="www-data")
    assert run.stdout.split() == [b"100", b"100"]
    assert score.read_text() == own
    stream = agent.start("/bin/cat", "/proc/self/oom_score_adj", pty={"size": {}})
    assert collect(stream).pty.strip() == b"100"
    stream.close()
