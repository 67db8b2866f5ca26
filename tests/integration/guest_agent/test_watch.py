from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from guest_agent.connect import Call
from guest_agent.context import Context
from guest_agent.errors import Code, RpcError
from guest_agent.filesystem.watch import service
from guest_agent.session import SessionStore
from guest_agent.users import UserDatabase
from tests.integration.guest_agent.agent import DEADLINE_S, Agent

pytestmark = pytest.mark.root
Poll = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    return tmp_path


def call(agent: Agent, method: str, **message: Any) -> Any:
    return agent.call(f"filesystem.Filesystem/{method}", message).json


def upload(agent: Agent, path: Path, content: bytes = b"content") -> None:
    headers = {"Content-Type": "application/octet-stream"}
    assert agent.request("POST", f"/files?path={quote(str(path))}", content, headers=headers).status == 200


def pairs(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["name"], event["type"].removeprefix("EVENT_TYPE_")) for event in events]


@pytest.fixture
def watch(agent: Agent, tree: Path) -> Iterator[Callable[..., Poll]]:
    """Create watchers of the tree, and remove them in the end."""
    watchers: list[str] = []

    def create(**options: Any) -> Poll:
        watcher = call(agent, "CreateWatcher", path=str(tree), **options)["watcherId"]
        watchers.append(watcher)
        return lambda: pairs(call(agent, "GetWatcherEvents", watcherId=watcher)["events"])

    yield create
    for watcher in watchers:
        assert call(agent, "RemoveWatcher", watcherId=watcher) == {}


def test_an_upload_is_exactly_create_chmod_write_at_once(agent: Agent, tree: Path, watch: Callable[..., Poll]) -> None:
    poll = watch()
    upload(agent, tree / "file")
    assert poll() == [("file", "CREATE"), ("file", "CHMOD"), ("file", "WRITE")]
    assert poll() == []


def test_moves_and_removals(agent: Agent, tree: Path, watch: Callable[..., Poll]) -> None:
    (tree / "a").touch()
    poll = watch()
    (tree / "a").rename(tree / "b")
    (tree / "b").unlink()
    (tree / "sub/unseen").touch()
    assert poll() == [("a", "RENAME"), ("b", "CREATE"), ("b", "REMOVE")]


def test_a_recursive_watch_covers_directories_made_later(agent: Agent, tree: Path, watch: Callable[..., Poll]) -> None:
    poll = watch(recursive=True)
    (tree / "sub/known").touch()
    upload(agent, tree / "new/deep/file")
    events = poll()
    assert events[:1] == [("sub/known", "CREATE")]
    created = [name for name, kind in events if kind == "CREATE"]
    assert created == ["sub/known", "new", "new/deep", "new/deep/file"]
    (tree / "new/deep/later").touch()
    assert poll() == [("new/deep/later", "CREATE")]


def test_a_directory_moved_within_the_tree_is_watched_under_its_new_name(
    agent: Agent, tree: Path, watch: Callable[..., Poll]
) -> None:
    poll = watch(recursive=True)
    (tree / "sub").rename(tree / "moved")
    assert poll() == [("sub", "RENAME"), ("moved", "CREATE")]
    (tree / "moved/file").touch()
    assert poll() == [("moved/file", "CREATE")]
    shutil.rmtree(tree / "moved")
    assert poll() == [("moved/file", "REMOVE"), ("moved", "REMOVE")]


def test_watch_dir_streams(agent: Agent, tree: Path) -> None:
    stream = agent.stream(
        "filesystem.Filesystem/WatchDir",
        {"path": str(tree), "includeEntry": True},
        **{"Keepalive-Ping-Interval": "1"},
    )
    assert stream.next() == {"start": {}}
    assert stream.next() == {"keepalive": {}}
    (tree / "file").touch()
    message = stream.next()
    assert message is not None
    event = message["filesystem"]
    assert pairs([event]) == [("file", "CREATE")]
    assert (event["entry"]["path"], event["entry"]["type"]) == (str(tree / "file"), "FILE_TYPE_FILE")
    (tree / "file").unlink()
    removed = stream.next()
    assert removed == {"filesystem": {"name": "file", "type": "EVENT_TYPE_REMOVE"}}
    stream.close()


@pytest.mark.parametrize("method", ["CreateWatcher", "WatchDir"])
def test_only_directories_can_be_watched(agent: Agent, tree: Path, method: str) -> None:
    (tree / "file").touch()
    for name, code in (("file", "invalid_argument"), ("missing", "not_found")):
        message = {"path": str(tree / name)}
        if method == "CreateWatcher":
            assert call(agent, method, **message)["code"] == code
        else:
            stream = agent.stream(f"filesystem.Filesystem/{method}", message)
            assert stream.next() is None
            assert stream.end is not None
            assert stream.end["error"]["code"] == code
            stream.close()


def test_unknown_watchers_are_not_found(agent: Agent) -> None:
    for method in ("GetWatcherEvents", "RemoveWatcher"):
        assert call(agent, method, watcherId="w999")["code"] == "not_found"


def test_a_stream_that_ends_leaves_no_descriptor_behind(agent: Agent, tree: Path) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))

    before = descriptors()
    for _ in range(20):
        stream = agent.stream("filesystem.Filesystem/WatchDir", {"path": str(tree)})
        assert stream.next() == {"start": {}}
        stream.response.close()
        stream.close()
        process = agent.start("/bin/true")
        while process.next() is not None:
            pass
        process.response.close()
        process.close()
    # The agent notices closed connections in its own time.
    deadline = time.monotonic() + DEADLINE_S
    while descriptors() > before and time.monotonic() < deadline:
        agent.request("GET", "/health")
    assert descriptors() <= before


def test_lost_events_are_told_and_the_watcher_goes_on(agent: Agent, tree: Path) -> None:
    watcher = call(agent, "CreateWatcher", path=str(tree))["watcherId"]
    # A stopped agent gathers nothing: the kernel's queue runs over.
    agent.process.send_signal(signal.SIGSTOP)
    try:
        for number in range(20_000):
            (tree / f"{number}").touch()
    finally:
        agent.process.send_signal(signal.SIGCONT)
    assert call(agent, "GetWatcherEvents", watcherId=watcher)["code"] == "resource_exhausted"
    call(agent, "GetWatcherEvents", watcherId=watcher)
    (tree / "after").touch()
    assert ("after", "CREATE") in pairs(call(agent, "GetWatcherEvents", watcherId=watcher)["events"])
    assert call(agent, "RemoveWatcher", watcherId=watcher) == {}


@pytest.mark.parametrize("allowed", [False, True])
def test_network_file_systems_are_watched_by_those_alone_who_insist(
    tree: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    tmpfs = 0x01021994
    monkeypatch.setattr(service, "_NETWORK_FILE_SYSTEMS", {tmpfs: "nfs"})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tree / "sub"], check=True, timeout=30)
    try:
        watching = service.WatchService(Context(UserDatabase(), SessionStore(tree / "state.json")))
        call = Call(user_name="root", timeout=None, keepalive=timedelta(seconds=90))

        async def create(path: Path) -> None:
            message = {"path": str(path), "allowNetworkMounts": allowed}
            created = await watching.create_watcher(call, message)
            await watching.remove_watcher(call, created)

        asyncio.run(create(tree))
        if allowed:
            asyncio.run(create(tree / "sub"))
            return
        with pytest.raises(RpcError, match=r"cannot watch path on network filesystem \(nfs\)") as refused:
            asyncio.run(create(tree / "sub"))
        assert refused.value.code is Code.INVALID_ARGUMENT
    finally:
        subprocess.run(["umount", tree / "sub"], check=True, timeout=30)
