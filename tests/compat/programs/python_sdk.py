"""What a team does with the Python SDK, on whichever release of `e2b` is installed."""

from __future__ import annotations

import contextlib
import inspect
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import e2b
import python_network  # noqa: F401 - its checks are some of this program's
from checks import AbsentFromThisRelease, check, eventually, needs, run_all
from e2b import Sandbox
from e2b.sandbox_sync.commands.command import Commands
from python_sandboxes import sandbox


def listed() -> list[Any]:
    found = Sandbox.list()
    if isinstance(found, list):
        return found
    every = []
    while found.has_next:
        every += found.next_items()
    return every


def pause(one: Any) -> None:
    for name in ("pause", "beta_pause"):
        if hasattr(one, name):
            getattr(one, name)()
            return
    raise AbsentFromThisRelease("pause")


@check
def create_info_list_and_kill() -> None:
    with sandbox(metadata={"who": "compat", "odd key": "a&b=c/d"}) as one:
        assert one.is_running()
        assert one.sandbox_id in {each.sandbox_id for each in listed()}
        found = next(each for each in listed() if each.sandbox_id == one.sandbox_id)
        assert found.metadata == {"who": "compat", "odd key": "a&b=c/d"}
        # Releases before 2.0 append the client id in some places and not in others.
        assert one.get_info().sandbox_id.partition("-")[0] == one.sandbox_id.partition("-")[0]
        # Releases before 2.0 answer nothing.
        assert one.kill() in (True, None)
        assert not one.is_running()
        assert not one.kill()


@check
def environment_of_create_and_of_a_command() -> None:
    with sandbox(envs={"GREETING": "hello"}) as one:
        assert one.commands.run("echo $GREETING").stdout == "hello\n"
        assert one.commands.run("echo $GREETING", envs={"GREETING": "ahoy"}).stdout == "ahoy\n"
        assert one.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n"


@check
def a_command_that_fails_says_how() -> None:
    with sandbox() as one:
        try:
            one.commands.run("echo out; echo err >&2; exit 3")
        except e2b.CommandExitException as failure:
            assert (failure.exit_code, failure.stdout, failure.stderr) == (3, "out\n", "err\n")
        else:
            raise AssertionError("no CommandExitException")


@check
def a_command_that_takes_too_long_is_ended() -> None:
    with sandbox() as one:
        try:
            one.commands.run("sleep 30", timeout=2)
        except e2b.TimeoutException:
            assert one.commands.run("pgrep -f 'sleep 3[0]' || echo none").stdout == "none\n"
        else:
            raise AssertionError("no TimeoutException")


@check
def background_command_streams_takes_input_and_is_killed() -> None:
    with sandbox() as one:
        said: list[str] = []
        echo = one.commands.run("cat", background=True, **_with_stdin())
        one.commands.send_stdin(echo.pid, "to and fro\n")
        for out, _, _ in echo:
            if out:
                said.append(out)
                break
        assert said == ["to and fro\n"]
        assert echo.pid in {process.pid for process in one.commands.list()}
        assert echo.kill()
        assert not one.commands.kill(echo.pid)


def _with_stdin() -> dict[str, bool]:
    # Before 2.1 every command had a standard input.
    has_choice = "stdin" in inspect.signature(Commands.run).parameters
    return {"stdin": True} if has_choice else {}


@check
def a_running_command_is_found_again() -> None:
    with sandbox() as one:
        slow = one.commands.run("sleep 2; echo done", background=True)
        assert one.commands.connect(slow.pid).wait().stdout == "done\n"


@check
def files_are_written_read_listed_moved_and_removed() -> None:
    with sandbox() as one:
        files = one.files
        files.write("/home/user/a/b.txt", "written")
        assert files.read("a/b.txt") == "written"
        assert bytes(files.read("/home/user/a/b.txt", format="bytes")) == b"written"
        files.write("/home/user/ünï cödé.bin", bytes(range(256)))
        assert bytes(files.read("/home/user/ünï cödé.bin", format="bytes")) == bytes(range(256))
        assert files.make_dir("a/c")
        assert not files.make_dir("a/c")
        files.rename("a/b.txt", "a/c/d.txt")
        assert [entry.name for entry in files.list("a/c")] == ["d.txt"]
        assert files.exists("a/c/d.txt")
        files.remove("a")
        assert not files.exists("a/c/d.txt")


@check
def a_missing_file_is_not_found() -> None:
    with sandbox() as one:
        try:
            one.files.read("/no/such/file")
        except e2b.NotFoundException:
            return
        raise AssertionError("no NotFoundException")


@check
def a_large_file_goes_up_and_comes_down() -> None:
    with sandbox() as one:
        content = bytes(range(256)) * 4096 * 8
        one.files.write("large.bin", content)
        assert bytes(one.files.read("large.bin", format="bytes")) == content


@check
def a_directory_is_watched() -> None:
    with sandbox() as one:
        one.files.make_dir("watched")
        handle = one.files.watch_dir("watched")
        one.files.write("watched/new.txt", "x")
        seen: list[tuple[str, str]] = []

        def is_seen() -> bool:
            seen.extend((event.type.value, event.name) for event in handle.get_new_events())
            return ("create", "new.txt") in seen

        eventually(is_seen)
        handle.stop()


@check
def signed_urls_serve_files_without_a_token() -> None:
    with sandbox(**({"secure": True} if not hasattr(Sandbox, "create") else {})) as one:
        one.files.write("shared.txt", "for a browser")
        # Before 2.0 signing is asked for; since then it is done where the sandbox demands it.
        asked = "use_signature" in inspect.signature(one.download_url).parameters
        url = one.download_url("shared.txt", use_signature_expiration=60, **({"use_signature": True} if asked else {}))
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.read() == b"for a browser"


@check
def a_terminal_answers() -> None:
    with sandbox() as one:
        size_of = getattr(e2b, "PtySize", None)
        if size_of is None:
            raise AbsentFromThisRelease("PtySize")
        terminal = one.pty.create(size_of(rows=24, cols=80), timeout=30)
        one.pty.send_stdin(terminal.pid, b"echo $((6*7)); exit\n")
        said = b""
        for _, _, data in terminal:
            said += data or b""
        assert b"42" in said


@check
def another_process_connects_to_it() -> None:
    with sandbox() as one:
        one.files.write("note", "kept")
        again = Sandbox.connect(one.sandbox_id)
        assert again.sandbox_id == one.sandbox_id
        assert again.files.read("note") == "kept"


@check
def its_time_is_moved_and_ends_it() -> None:
    with sandbox(timeout=300) as one:
        before = one.get_info()
        one.set_timeout(3)
        if hasattr(before, "end_at"):
            assert one.get_info().end_at < before.end_at
        eventually(lambda: not one.is_running(), seconds=20)


@check
def what_it_uses_is_reported() -> None:
    with sandbox() as one:
        needs(one, "get_metrics")
        eventually(lambda: len(one.get_metrics()) > 0)
        newest = one.get_metrics()[-1]
        assert newest.cpu_count >= 1
        assert newest.mem_total > newest.mem_used > 0


@check
def a_pause_keeps_files_processes_and_memory() -> None:
    with sandbox() as one:
        one.files.write("kept", "over the pause")
        counter = one.commands.run("while :; do sleep 0.2; done", background=True)
        boot = one.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
        pause(one)
        assert not one.is_running()
        again = Sandbox.connect(one.sandbox_id)
        assert again.is_running()
        assert again.files.read("kept") == "over the pause"
        assert again.commands.run("cat /proc/sys/kernel/random/boot_id").stdout == boot
        assert counter.pid in {process.pid for process in again.commands.list()}


@check
def its_time_being_up_pauses_it_where_asked() -> None:
    if not hasattr(Sandbox, "pause"):
        raise AbsentFromThisRelease("lifecycle")
    with sandbox(timeout=3, lifecycle={"on_timeout": "pause"}) as one:
        eventually(lambda: one.get_info().state.value == "paused")
        again = Sandbox.connect(one.sandbox_id, timeout=60)
        assert again.commands.run("echo back").stdout == "back\n"


@check
def traffic_wakes_it_where_asked() -> None:
    if not hasattr(Sandbox, "pause"):
        raise AbsentFromThisRelease("lifecycle")
    with sandbox(lifecycle={"on_timeout": "pause", "auto_resume": True}) as one:
        pause(one)
        assert one.commands.run("echo awake").stdout == "awake\n"


@check
def a_snapshot_starts_as_often_as_asked() -> None:
    needs(Sandbox, "create_snapshot")
    with sandbox() as one:
        one.files.write("state", "of the snapshot")
        snapshot = one.create_snapshot()
        one.files.write("state", "later")
        for _ in range(2):
            copy = Sandbox.create(snapshot.snapshot_id, timeout=60)
            try:
                assert copy.files.read("state") == "of the snapshot"
            finally:
                copy.kill()
        assert one.files.read("state") == "later"
        assert Sandbox.delete_snapshot(snapshot.snapshot_id)
        assert not Sandbox.delete_snapshot(snapshot.snapshot_id)


@check
def a_fork_goes_its_own_way() -> None:
    needs(Sandbox, "fork")
    with sandbox() as one:
        one.files.write("state", "common")
        forks = one.fork(count=2)
        assert len(forks) == 2
        for number, fork in enumerate(forks):
            other = getattr(fork, "sandbox", fork)
            assert other is not None, getattr(fork, "error", None)
            try:
                assert other.files.read("state") == "common"
                other.files.write("state", str(number))
            finally:
                other.kill()
        assert one.files.read("state") == "common"


@check
def a_template_is_built_and_used() -> None:
    needs(e2b, "Template")
    name = f"compat-{int(time.time() * 1000)}"
    template = (
        e2b.Template()
        .from_template("base")
        .set_envs({"BUILT_BY": "compat"})
        .run_cmd("echo built > /home/user/built")
        .set_workdir("/home/user")
    )
    e2b.Template.build(template, name, cpu_count=1, memory_mb=512)
    one = Sandbox.create(name, timeout=60)
    try:
        assert one.files.read("/home/user/built") == "built\n"
        assert one.commands.run("echo $BUILT_BY").stdout == "compat\n"
    finally:
        one.kill()


@check
def git_works_in_it() -> None:
    with sandbox() as one:
        needs(one, "git")
        one.git.init("/home/user/repository")
        one.files.write("/home/user/repository/a.txt", "a")
        one.git.add("/home/user/repository")
        assert one.git.status("/home/user/repository").has_staged


@contextlib.contextmanager
def volume() -> Iterator[Any]:
    needs(e2b, "Volume")
    made = e2b.Volume.create(f"compat-{int(time.time() * 1000)}")
    try:
        yield made
    finally:
        e2b.Volume.destroy(made.volume_id)


@check
def a_volume_is_found_until_it_is_destroyed() -> None:
    with volume() as one:
        assert one.volume_id in {each.volume_id for each in e2b.Volume.list()}
        assert e2b.Volume.connect(one.volume_id).name == one.name
        assert e2b.Volume.destroy(one.volume_id)
        assert not e2b.Volume.destroy(one.volume_id)
        assert one.volume_id not in {each.volume_id for each in e2b.Volume.list()}


@check
def what_is_in_a_volume_is_written_and_read_without_a_sandbox() -> None:
    with volume() as one:
        one.make_dir("/a/b", force=True)
        written = one.write_file("/a/b/ünï cödé.txt", "written", mode=0o640)
        assert (written.size, written.mode & 0o777) == (7, 0o640)
        assert one.read_file("/a/b/ünï cödé.txt") == "written"
        large = bytes(range(256)) * 4096 * 8
        one.write_file("/a/large", large)
        assert bytes(one.read_file("/a/large", format="bytes")) == large
        assert b"".join(one.read_file("/a/large", format="stream")) == large
        assert {entry.name for entry in one.list("/a")} == {"b", "large"}
        one.remove("/a/large")
        assert not one.exists("/a/large")
        try:
            one.read_file("/a/large")
        except e2b.NotFoundException:
            return
        raise AssertionError("no NotFoundException")


@check
def a_volume_outlives_the_sandboxes_that_mount_it() -> None:
    with volume() as one:
        one.write_file("/from-outside", "seed")
        with sandbox(volume_mounts={"/mnt/data": one}) as first:
            assert first.get_info().volume_mounts == [{"name": one.name, "path": "/mnt/data"}]
            assert first.files.read("/mnt/data/from-outside", user="root") == "seed"
            first.commands.run("echo kept > /mnt/data/from-inside", user="root")
            # Whoever has the token sees what the sandbox has written, and the other way round.
            assert one.read_file("/from-inside") == "kept\n"
        with sandbox(volume_mounts={"/elsewhere": one.name}) as second:
            assert second.commands.run("cat /elsewhere/from-inside", user="root").stdout == "kept\n"
        assert one.read_file("/from-inside") == "kept\n"


@check
def a_volume_in_use_is_neither_mounted_again_nor_destroyed() -> None:
    with volume() as one, sandbox(volume_mounts={"/mnt/data": one}) as holder:
        for refused in (
            lambda: Sandbox.create(template="base", volume_mounts={"/mnt/data": one}),
            lambda: e2b.Volume.destroy(one.volume_id),
        ):
            try:
                refused()
            except Exception as error:  # releases raise one of several classes for a 409
                assert holder.sandbox_id in str(error)
            else:
                raise AssertionError("nothing was refused")


@check
def a_wrong_key_is_refused() -> None:
    make = Sandbox.create if hasattr(Sandbox, "create") else Sandbox
    try:
        make(template="base", api_key="e2b_" + "0" * 40)
    except e2b.AuthenticationException:
        return
    except e2b.SandboxException as refusal:
        # What releases up to 2.0 make of a 401.
        assert str(refusal).startswith("401")
        return
    raise AssertionError("the key was taken")


if __name__ == "__main__":
    run_all()
