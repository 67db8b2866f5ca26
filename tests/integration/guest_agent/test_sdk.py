"""The unmodified E2B SDK against a real agent. There is no control plane: the sandbox object is made by hand."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    FilesystemEventType,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    TimeoutException,
)
from e2b.connection_config import ConnectionConfig
from packaging.version import Version

from tests.integration.guest_agent.agent import TOKEN, Agent

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def connect(agent: Agent, token: str) -> Sandbox:
    return Sandbox(
        sandbox_id="isandbox",
        sandbox_domain=None,
        envd_version=Version("0.6.13"),
        envd_access_token=token,
        traffic_access_token=None,
        connection_config=ConnectionConfig(
            api_key="e2b_" + "0" * 40, sandbox_url=agent.url, extra_sandbox_headers={"X-Access-Token": token}
        ),
    )


@pytest.fixture
def sandbox(agent: Agent) -> Sandbox:
    return connect(agent, TOKEN)


def test_is_running(sandbox: Sandbox) -> None:
    assert sandbox.is_running()


def test_a_command_gives_its_output_and_code(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo out; echo err >&2; echo $FROM_INIT $OWN", envs={"OWN": "mine"})
    assert (result.stdout, result.stderr, result.exit_code) == ("out\nglobal mine\n", "err\n", 0)
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("echo last words; exit 7")
    assert (failed.value.exit_code, failed.value.stdout) == (7, "last words\n")


def test_a_command_runs_as_the_user_asked_for(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("id -un; echo $HOME", user="www-data", cwd="/").stdout == "www-data\n/var/www\n"
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        sandbox.commands.run("true", user="nobody-here")


def test_a_command_is_stopped_at_its_timeout(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 300", timeout=1)
    assert "sleep 300" not in sandbox.commands.run("ps -eo args").stdout.splitlines()


def test_a_missing_directory_is_an_invalid_argument(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentException, match="cwd '/not/there' does not exist"):
        sandbox.commands.run("true", cwd="/not/there")


def test_background_commands_are_listed_reached_again_and_killed(sandbox: Sandbox) -> None:
    started = sandbox.commands.run("cat", background=True, stdin=True)
    assert started.pid in [process.pid for process in sandbox.commands.list()]
    started.disconnect()
    handle = sandbox.commands.connect(started.pid)
    sandbox.commands.send_stdin(started.pid, "once more")
    sandbox.commands.close_stdin(started.pid)
    assert handle.wait().stdout == "once more"

    sleeper = sandbox.commands.run("sleep 300", background=True)
    assert sandbox.commands.kill(sleeper.pid)
    with pytest.raises(CommandExitException):
        sleeper.wait()
    with pytest.raises(CommandExitException):
        sandbox.commands.run(f"kill -0 {sleeper.pid}")
    assert not sandbox.commands.kill(sleeper.pid)


def test_a_terminal_takes_input_and_a_new_size(sandbox: Sandbox) -> None:
    terminal = sandbox.pty.create(PtySize(cols=80, rows=24), timeout=30)
    sandbox.pty.resize(terminal.pid, PtySize(cols=111, rows=33))
    sandbox.pty.send_stdin(terminal.pid, b"tput cols; stty size; exit\n")
    shown = bytearray()
    terminal.wait(on_pty=shown.extend)
    assert b"\r111\r\n" in shown
    assert b"33 111" in shown


def test_files_are_written_read_listed_moved_and_removed(sandbox: Sandbox, tmp_path: Path) -> None:
    path = f"{tmp_path}/a/b/c.txt"
    written = sandbox.files.write(path, "äöü")
    assert written.path == path
    assert sandbox.files.read(path) == "äöü"
    assert sandbox.files.read(path, format="bytes", gzip=True) == "äöü".encode()
    info = sandbox.files.get_info(path)
    assert (info.type, info.size, info.permissions, info.owner) == (FileType.FILE, 6, "-rw-r--r--", "root")
    assert [entry.path for entry in sandbox.files.list(f"{tmp_path}/a", depth=2)] == [f"{tmp_path}/a/b", path]
    moved = sandbox.files.rename(path, f"{tmp_path}/d/e.txt")
    assert moved.name == "e.txt"
    assert not sandbox.files.exists(path)
    assert sandbox.files.make_dir(f"{tmp_path}/new")
    assert not sandbox.files.make_dir(f"{tmp_path}/new")
    sandbox.files.remove(f"{tmp_path}/d")
    with pytest.raises(NotFoundException):
        sandbox.files.read(f"{tmp_path}/d/e.txt")


def test_files_written_together_keep_their_metadata(sandbox: Sandbox, tmp_path: Path) -> None:
    names = [f"{tmp_path}/dir-{number}/same.txt" for number in range(3)]
    sandbox.files.write_files([{"path": name, "data": name} for name in names])
    assert [sandbox.files.read(name) for name in names] == names
    sandbox.files.write(names[0], "x", metadata={"purpose": "test"})
    assert sandbox.files.get_info(names[0]).metadata == {"purpose": "test"}


@pytest.mark.parametrize("octet_stream", [True, False])
def test_large_files_round_trip(sandbox: Sandbox, tmp_path: Path, octet_stream: bool) -> None:
    content = bytes(range(256)) * 20_000
    sandbox.files.write(f"{tmp_path}/large", content, use_octet_stream=octet_stream)
    assert sandbox.files.read(f"{tmp_path}/large", format="bytes") == content
    assert b"".join(sandbox.files.read(f"{tmp_path}/large", format="stream")) == content


def test_a_signed_url_is_what_the_sdk_signs(sandbox: Sandbox, agent: Agent, tmp_path: Path) -> None:
    sandbox.files.write(f"{tmp_path}/signed", "content")
    url = sandbox.download_url(f"{tmp_path}/signed", use_signature_expiration=60)
    with urlopen(url) as answer:
        assert answer.read() == b"content"


def test_a_wrong_token_is_an_authentication_error(agent: Agent) -> None:
    with pytest.raises(AuthenticationException):
        connect(agent, "wrong").commands.run("true")
    with pytest.raises(AuthenticationException):
        connect(agent, "wrong").files.read("/etc/hostname")


def test_many_commands_at_once(sandbox: Sandbox) -> None:
    handles = [sandbox.commands.run(f"sleep 0.2; echo {number}", background=True) for number in range(20)]
    assert [handle.wait().stdout for handle in handles] == [f"{number}\n" for number in range(20)]


def test_a_watcher_reports_an_upload(sandbox: Sandbox, tmp_path: Path) -> None:
    watcher = sandbox.files.watch_dir(str(tmp_path), recursive=True)
    sandbox.files.write(f"{tmp_path}/a.txt", "x")
    events = watcher.get_new_events()
    assert [event.name for event in events] == ["a.txt"] * 3
    assert [event.type for event in events] == [
        FilesystemEventType.CREATE,
        FilesystemEventType.CHMOD,
        FilesystemEventType.WRITE,
    ]
    watcher.stop()
