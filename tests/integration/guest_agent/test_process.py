from __future__ import annotations

import base64
import hashlib
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.guest_agent.agent import DEADLINE_S, Agent, Stream, b64, collect, enveloped

pytestmark = pytest.mark.root


def started(stream: Stream) -> int:
    message = stream.next()
    assert message is not None
    pid: int = message["event"]["start"]["pid"]
    return pid


def send(agent: Agent, pid: int, **data: bytes) -> int:
    message = {"process": {"pid": pid}, "input": {name: b64(value) for name, value in data.items()}}
    return agent.call("process.Process/SendInput", message).status


def test_a_finished_stream_ends_with_an_empty_end_of_stream(agent: Agent) -> None:
    run = agent.run("/bin/sh", "-c", "echo out; echo err >&2")
    assert (run.stdout, run.stderr) == (b"out\n", b"err\n")
    assert run.exit == {"exitCode": 0, "exited": True, "status": "exit status 0"}
    assert run.end == {}


def test_exit_codes_and_signals_are_worded_as_envd_words_them(agent: Agent) -> None:
    assert agent.run("/bin/sh", "-c", "exit 3").exit == {
        "exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3",
    }  # fmt: skip
    assert agent.run("/bin/sh", "-c", "kill -TERM $$").exit == {
        "exitCode": -1, "exited": False, "status": "signal: terminated", "error": "signal: terminated",
    }  # fmt: skip


def test_all_output_comes_before_the_end_and_in_pieces_of_at_most_32_kib(agent: Agent) -> None:
    stream = agent.start("/bin/sh", "-c", "head -c 1000000 /dev/zero; echo -n last")
    sizes = []
    while (message := stream.next()) is not None:
        if "data" in message["event"]:
            sizes.append(len(base64.b64decode(message["event"]["data"]["stdout"])))
    stream.close()
    assert sum(sizes) == 1_000_004
    assert max(sizes) <= 32 * 1024


@pytest.mark.parametrize(
    ("argv", "process", "reason"),
    [
        (("no-such-program",), {}, "executable file not found"),
        (("/etc/passwd",), {}, "Permission denied"),
        (("/bin/true",), {"cwd": "/not/there"}, "cwd '/not/there' does not exist"),
        (("/bin/true",), {"envs": {"A": "\0"}}, "null"),
        (("",), {}, "no command"),
    ],
)
def test_what_cannot_start_is_an_invalid_argument(
    agent: Agent, argv: tuple[str, ...], process: dict[str, object], reason: str
) -> None:
    run = agent.run(*argv, process=process)
    assert run.pid == 0
    assert run.end is not None
    assert run.end["error"]["code"] == "invalid_argument"
    assert reason in run.end["error"]["message"]


def test_an_unknown_user_is_unauthenticated(agent: Agent) -> None:
    run = agent.run("/bin/true", user="root123")
    assert run.end == {"error": {"code": "unauthenticated", "message": "invalid username: 'root123'"}}


def test_a_process_has_no_more_rights_than_its_user(agent: Agent) -> None:
    run = agent.run("/bin/cat", "/proc/self/status", user="www-data")
    status = dict(line.split(":\t", 1) for line in run.stdout.decode().splitlines())
    assert status["Uid"].split() == ["33"] * 4
    assert status["Gid"].split() == ["33"] * 4
    assert status["Groups"].split() == ["33"]
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    # posix_spawn leaves the C library's own two signals, 32 and 33, ignored; no program is meant to see them.
    assert int(status["SigBlk"], 16) == int(status["SigIgn"], 16) & ~(0b11 << 31) == 0


def test_the_agent_is_root_again_after_a_failed_start_as_another_user(agent: Agent) -> None:
    agent.run("no-such-program", user="www-data")
    assert agent.run("/usr/bin/id", "-u").stdout == b"0\n"
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    assert "Uid:\t0\t0\t0\t0" in status
    assert Path(f"/proc/{agent.process.pid}/cwd").readlink() == Path("/")


def test_a_directory_the_user_may_not_enter_is_refused(agent: Agent, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    run = agent.run("/bin/pwd", user="www-data", process={"cwd": str(tmp_path)})
    assert run.end is not None
    assert "Permission denied" in run.end["error"]["message"]


def test_a_process_leads_a_session_and_inherits_three_descriptors(agent: Agent) -> None:
    run = agent.run("/bin/sh", "-c", "ps -o sid= -p $$; echo $$; ls /proc/$$/fd")
    session, pid, *descriptors = run.stdout.split()
    assert session == pid
    assert descriptors == [b"0", b"1", b"2"]


def test_the_environment_is_the_documented_one_and_the_last_word_is_the_calls(agent: Agent) -> None:
    run = agent.run("/usr/bin/env", process={"envs": {"FROM_INIT": "call", "NEW": "1"}})
    environment = dict(line.split("=", 1) for line in run.stdout.decode().splitlines())
    assert environment == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": "isandbox",
        "E2B_TEMPLATE_ID": "base",
        "FROM_INIT": "call",
        "NEW": "1",
    }
    assert b"NEW=" not in agent.run("/usr/bin/env").stdout


def test_without_stdin_a_process_reads_nothing(agent: Agent) -> None:
    assert agent.run("/bin/cat").exit == {"exitCode": 0, "exited": True, "status": "exit status 0"}


def test_an_unset_stdin_flag_means_a_stdin(agent: Agent) -> None:
    stream = agent.stream("process.Process/Start", {"process": {"cmd": "/bin/cat"}, "tag": "cat"})
    pid = started(stream)
    assert send(agent, pid, stdin=b"hello") == 200
    assert agent.call("process.Process/CloseStdin", {"process": {"tag": "cat"}}).status == 200
    assert collect_rest(stream) == b"hello"
    assert send(agent, pid, stdin=b"late") == 404


def collect_rest(stream: Stream) -> bytes:
    data = b""
    for message in stream:
        data += base64.b64decode(message["event"].get("data", {}).get("stdout", ""))
    stream.close()
    return data


def test_input_larger_than_a_pipe_keeps_its_order(agent: Agent) -> None:
    stream = agent.start("/bin/sh", "-c", "sleep 0.3; sha256sum", stdin=True)
    pid = started(stream)
    content = os.urandom(1_000_000)
    half = len(content) // 2
    messages: list[dict[str, Any]] = [
        {"start": {"process": {"pid": pid}}},
        {"data": {"input": {"stdin": b64(content[:half])}}},
        {"keepalive": {}},
        {"data": {"input": {"stdin": b64(content[half:])}}},
    ]
    body = b"".join(map(enveloped, messages))
    answer = agent.request(
        "POST", "/process.Process/StreamInput", body, headers={"Content-Type": "application/connect+json"}
    )
    assert answer.body == enveloped({}) + b"\x02\0\0\0\x02{}"
    agent.call("process.Process/CloseStdin", {"process": {"pid": pid}})
    assert collect_rest(stream).split()[0].decode() == hashlib.sha256(content).hexdigest()


def test_wrong_input_is_refused(agent: Agent) -> None:
    stream = agent.start("/bin/sleep", "100")
    pid = started(stream)
    for name in ("stdin", "pty"):
        message = {"process": {"pid": pid}, "input": {name: b64(b"x")}}
        assert agent.call("process.Process/SendInput", message).json["code"] == "failed_precondition"
    assert agent.call("process.Process/CloseStdin", {"process": {"pid": pid}}).status == 200
    resize = {"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}}
    assert agent.call("process.Process/Update", resize).json["code"] == "failed_precondition"
    agent.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
    collect(stream)
    stream.close()


def test_a_killed_process_is_reaped_and_its_end_can_still_be_fetched(agent: Agent) -> None:
    stream = agent.start("/bin/sleep", "100")
    pid = started(stream)
    hangup = agent.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 1})
    assert (hangup.status, hangup.json["code"]) == (501, "unimplemented")
    assert agent.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9}).status == 200
    for _ in stream:
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    late = agent.stream("process.Process/Connect", {"process": {"pid": pid}})
    run = collect(late)
    assert (run.pid, run.exit and run.exit["status"]) == (pid, "signal: killed")
    gone = agent.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGTERM"})
    assert gone.json == {"code": "not_found", "message": f"process with pid {pid} not found"}
    for each in (stream, late):
        each.close()


def test_a_timeout_kills_the_whole_group(agent: Agent) -> None:
    stream = agent.start("/bin/sh", "-c", "sleep 100 & echo $!; wait", timeout_ms=1_000)
    pid = started(stream)
    message = stream.next()
    assert message is not None
    child = os.pidfd_open(int(base64.b64decode(message["event"]["data"]["stdout"])))
    for _ in stream:
        pass
    stream.close()
    assert stream.end is not None
    assert stream.end["error"]["code"] == "deadline_exceeded"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert _ends(child)


def _ends(pidfd: int) -> bool:
    """Return whether the process ends before the deadline. An orphan's zombie counts: it is for init to reap."""
    try:
        return bool(select.select([pidfd], [], [], DEADLINE_S)[0])
    finally:
        os.close(pidfd)


def test_other_calls_end_at_their_timeout_and_leave_the_process_alone(agent: Agent) -> None:
    stream = agent.start("/bin/sleep", "20", stdin=True)
    pid = started(stream)
    followed = agent.stream("process.Process/Connect", {"process": {"pid": pid}}, **{"Connect-Timeout-Ms": "100"})
    assert collect(followed).end == {"error": {"code": "deadline_exceeded", "message": "the call's timeout has passed"}}
    followed.close()
    # More than a pipe holds, and nobody reads it.
    stuck = {"process": {"pid": pid}, "input": {"stdin": b64(b"a" * 1_000_000)}}
    refused = agent.call("process.Process/SendInput", stuck, **{"Connect-Timeout-Ms": "100"})
    assert (refused.status, refused.json["code"]) == (504, "deadline_exceeded")
    assert agent.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9}).status == 200
    run = collect(_with_start(stream, pid))
    stream.close()
    assert run.exit is not None
    assert run.exit["status"] == "signal: killed"


def test_a_process_outlives_its_client(agent: Agent) -> None:
    stream = agent.start("/bin/sh", "-c", "read line; echo got $line", stdin=True, tag="outlives")
    pid = started(stream)
    stream.close()
    second, third = (agent.stream("process.Process/Connect", {"process": {"tag": "outlives"}}) for _ in range(2))
    assert started(second) == started(third) == pid
    listed = agent.call("process.Process/List", {}).json["processes"]
    assert [(entry["pid"], entry["config"]["cmd"]) for entry in listed if entry.get("tag") == "outlives"] == [
        (pid, "/bin/sh")
    ]
    send(agent, pid, stdin=b"word\n")
    assert collect_rest(second) == collect_rest(third) == b"got word\n"
    assert pid not in [entry["pid"] for entry in agent.call("process.Process/List", {}).json["processes"]]


def test_a_program_left_behind_does_not_hold_the_stream_open(agent: Agent) -> None:
    run = agent.run("/bin/sh", "-c", "(sleep 30; echo late) & echo $!")
    assert run.exit is not None
    os.kill(int(run.stdout), signal.SIGKILL)


def test_a_slow_reader_slows_the_process_down_and_loses_nothing(agent: Agent) -> None:
    stream = agent.start("/bin/sh", "-c", "head -c 10000000 /dev/zero; echo done >&2")
    pid = started(stream)
    # The process cannot end: pipe, agent and sockets together hold less than it writes.
    assert pid in [entry["pid"] for entry in agent.call("process.Process/List", {}).json["processes"]]
    run = collect(_with_start(stream, pid))
    stream.close()
    assert (len(run.stdout), run.stderr) == (10_000_000, b"done\n")


def _with_start(stream: Stream, pid: int) -> Stream:
    """Put the start event that was taken off back in front."""
    take: Callable[[], dict[str, object] | None] = stream.next
    pending: list[dict[str, object]] = [{"event": {"start": {"pid": pid}}}]

    class Replayed(Stream):
        def next(self) -> dict[str, object] | None:
            if pending:
                return pending.pop()
            message = take()
            self.end = stream.end
            return message

    return Replayed(stream.connection, stream.response)


def test_silence_is_broken_by_keepalives(agent: Agent) -> None:
    stream = agent.start("/bin/sleep", "1.5", headers={"Keepalive-Ping-Interval": "1"})
    events = [next(iter(message["event"])) for message in stream]
    stream.close()
    assert events == ["start", "keepalive", "end"]


def test_a_terminal_is_controlling_and_belongs_to_the_user(agent: Agent) -> None:
    run = agent.run(
        "/bin/sh",
        "-c",
        "tty; stat -c %U $(tty); stty size; echo to tty > /dev/tty; exit 4",
        user="www-data",
        pty={"size": {"cols": 100, "rows": 30}},
    )
    assert run.exit is not None
    assert run.exit["exitCode"] == 4
    terminal, *rest = run.pty.decode().splitlines()
    assert terminal.startswith("/dev/pts/")
    assert rest == ["www-data", "30 100", "to tty"]
    assert (run.stdout, run.stderr) == (b"", b"")


def test_ctrl_c_on_a_terminal_interrupts(agent: Agent) -> None:
    stream = agent.start("/bin/cat", pty={"size": {"cols": 80, "rows": 24}})
    pid = started(stream)
    refused = agent.call("process.Process/CloseStdin", {"process": {"pid": pid}})
    assert refused.json["code"] == "failed_precondition"
    assert send(agent, pid, pty=b"\x03") == 200
    run = collect(_with_start(stream, pid))
    stream.close()
    assert run.exit is not None
    assert run.exit["status"] == "signal: interrupt"


def test_malformed_requests_are_invalid_arguments(agent: Agent) -> None:
    answer = agent.request(
        "POST", "/process.Process/Start", b"\0\0\0\0\x05{}", headers={"Content-Type": "application/connect+json"}
    )
    assert answer.status == 200
    assert b"invalid_argument" in answer.body
    assert agent.call("process.Process/SendInput", {"process": {}}).json["code"] == "invalid_argument"
    assert agent.call("process.Process/SendInput", {"process": {"pid": -1}}).status == 400
    for method, accepted in (("List", "application/json"), ("Start", "application/connect+json")):
        other = agent.request("POST", f"/process.Process/{method}", headers={"Content-Type": "application/xml"})
        assert other.status == 415
        assert accepted in other.headers["accept-post"]
