"""E2B's content API in a real agent, on a directory of this machine in the place of a mounted volume."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.integration.guest_agent.agent import TOKEN, Agent, Answer, running_agent

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), "--init-from", "127.0.0.1") as agent:
        yield agent


@pytest.fixture
def volume(agent: Agent, tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    root.mkdir()
    mounts = [{"slot": 1, "path": str(root)}]
    assert agent.init(accessToken=TOKEN, sandboxId="isandbox", volumeMounts=mounts).status == 204
    return root


def ask(agent: Agent, method: str, kind: str, path: str, body: bytes = b"", **query: object) -> Answer:
    return agent.request(method, f"/volumes/{kind}?{urlencode({'slot': 1, 'path': path, **query})}", body)


def failure(answer: Answer) -> tuple[int, str]:
    assert set(answer.json) == {"code", "message"}
    return answer.status, answer.json["code"]


NOT_FOUND = (404, "path_not_found")
EXISTS = (409, "path_already_exists")
INVALID = (400, "invalid_request")


def test_a_file_is_written_read_and_described(agent: Agent, volume: Path) -> None:
    content = os.urandom(3_000_000)
    made = ask(agent, "PUT", "file", "a.bin", content, mode=0o640)
    assert made.status == 201
    assert {name: made.json[name] for name in ("name", "type", "path", "size", "mode", "uid", "gid")} == {
        "name": "a.bin",
        "type": "file",
        "path": "/a.bin",
        "size": len(content),
        "mode": 0o640,
        "uid": 1000,
        "gid": 1000,
    }
    assert ask(agent, "GET", "path", "/a.bin").json == made.json
    read = ask(agent, "GET", "file", "/a.bin")
    assert (read.status, read.headers["content-type"]) == (200, "application/octet-stream")
    assert read.body == content == (volume / "a.bin").read_bytes()


def test_an_empty_file(agent: Agent, volume: Path) -> None:
    assert ask(agent, "PUT", "file", "/empty").json["size"] == 0
    assert ask(agent, "GET", "file", "/empty").body == b""


def test_a_file_is_replaced_only_by_force(agent: Agent, volume: Path) -> None:
    ask(agent, "PUT", "file", "/f", b"first")
    assert failure(ask(agent, "PUT", "file", "/f", b"second")) == EXISTS
    assert ask(agent, "PUT", "file", "/f", b"second", force="true", uid=0, gid=7).status == 201
    assert (volume / "f").read_text() == "second"
    assert ((volume / "f").stat().st_uid, (volume / "f").stat().st_gid) == (0, 7)
    assert [path.name for path in volume.iterdir()] == ["f"]


def test_parents_are_made_only_by_force(agent: Agent, volume: Path) -> None:
    assert failure(ask(agent, "PUT", "file", "/a/b/f", b"x")) == NOT_FOUND
    assert ask(agent, "PUT", "file", "/a/b/f", b"x", force="true").status == 201
    assert failure(ask(agent, "POST", "dir", "/c/d")) == NOT_FOUND
    made = ask(agent, "POST", "dir", "/c/d", force="true", mode=0o700, uid=5, gid=6)
    assert (made.status, made.json["type"], made.json["mode"]) == (201, "directory", 0o700)
    assert (made.json["uid"], made.json["gid"]) == (5, 6)


def test_a_directory_that_exists(agent: Agent, volume: Path) -> None:
    assert ask(agent, "POST", "dir", "/d").status == 201
    assert failure(ask(agent, "POST", "dir", "/d")) == EXISTS
    assert failure(ask(agent, "POST", "dir", "/")) == EXISTS
    assert ask(agent, "POST", "dir", "/d", force="true", mode=0o700).json["mode"] == 0o755
    assert failure(ask(agent, "PUT", "file", "/d", b"x", force="true")) == EXISTS
    ask(agent, "PUT", "file", "/f", b"x")
    assert failure(ask(agent, "POST", "dir", "/f", force="true")) == EXISTS
    assert failure(ask(agent, "POST", "dir", "/f/below", force="true")) == INVALID


def test_a_listing_goes_as_deep_as_is_asked(agent: Agent, volume: Path) -> None:
    for path in ("/b/deep/deeper", "/a"):
        ask(agent, "POST", "dir", path, force="true")
    ask(agent, "PUT", "file", "/b/file", b"12345")

    def listed(path: str, depth: int = 1) -> list[str]:
        return [entry["path"] for entry in ask(agent, "GET", "dir", path, depth=depth).json]

    assert listed("/") == ["/a", "/b"]
    assert listed("/b", depth=1) == ["/b/deep", "/b/file"]
    assert listed("/", depth=2) == ["/a", "/b", "/b/deep", "/b/file"]
    assert listed("/a") == []
    assert failure(ask(agent, "GET", "dir", "/absent")) == NOT_FOUND
    assert failure(ask(agent, "GET", "dir", "/b/file")) == NOT_FOUND
    assert failure(ask(agent, "GET", "dir", "/", depth=11)) == (400, "depth_out_of_range")


def test_metadata_is_changed(agent: Agent, volume: Path) -> None:
    ask(agent, "PUT", "file", "/f", b"x")
    changed = ask(agent, "PATCH", "path", "/f", json.dumps({"uid": 1001, "gid": 1002, "mode": 0o4755}).encode())
    assert (changed.status, changed.json["uid"], changed.json["gid"], changed.json["mode"]) == (200, 1001, 1002, 0o4755)
    assert ask(agent, "PATCH", "path", "/f", b'{"mode": 384}').json["uid"] == 1001
    assert failure(ask(agent, "PATCH", "path", "/absent", b"{}")) == NOT_FOUND
    for body in (b"[]", b"{", b'{"uid": "1"}', b'{"uid": -1}', b'{"mode": 4096}', b'{"gid": 4294967295}'):
        assert failure(ask(agent, "PATCH", "path", "/f", body)) == INVALID


def test_what_is_removed_is_gone_with_all_that_is_in_it(agent: Agent, volume: Path) -> None:
    ask(agent, "PUT", "file", "/a/b/f", b"x", force="true")
    assert ask(agent, "DELETE", "path", "/a").status == 204
    assert failure(ask(agent, "DELETE", "path", "/a")) == NOT_FOUND
    assert failure(ask(agent, "DELETE", "path", "/")) == (400, "cannot_delete_root")
    assert list(volume.iterdir()) == []


def test_what_is_not_there(agent: Agent, volume: Path) -> None:
    ask(agent, "PUT", "file", "/f", b"x")
    for method, kind in (("GET", "path"), ("GET", "file"), ("DELETE", "path")):
        assert failure(ask(agent, method, kind, "/absent")) == NOT_FOUND
    assert failure(ask(agent, "GET", "path", "/f/below")) == NOT_FOUND
    assert failure(ask(agent, "GET", "file", "/")) == NOT_FOUND


@pytest.mark.parametrize("path", ["", "a\0b", "/" + "x" * 300, "/" + "x/" * 3000])
def test_a_path_that_cannot_be(agent: Agent, volume: Path, path: str) -> None:
    assert failure(ask(agent, "GET", "path", path)) == INVALID


def test_nothing_outside_of_the_volume_is_reached(agent: Agent, volume: Path) -> None:
    secret = volume.parent / "secret"
    secret.write_text("outside")
    (volume / "absolute").symlink_to(secret)
    (volume / "relative").symlink_to("../secret")
    (volume / "up").symlink_to("..")
    (volume / "magic").symlink_to("/proc/self/root")
    (volume / "itself").symlink_to("itself")
    for path in ("/absolute", "/relative", "/up/secret", "/../secret", f"/magic{secret}", "/absent/../../secret"):
        assert failure(ask(agent, "GET", "file", path)) == NOT_FOUND, path
    assert failure(ask(agent, "GET", "file", "/itself")) == INVALID
    assert failure(ask(agent, "PATCH", "path", "/absolute", b'{"mode": 0}')) == NOT_FOUND
    for path in ("/up/made", "/../made"):
        assert ask(agent, "PUT", "file", path, b"x", force="true").status == 201
    assert ask(agent, "PUT", "file", "/absolute", b"x", force="true").status == 201, "the link is replaced"
    assert (volume / "made").exists(), "a way up ends at the root"
    assert ask(agent, "DELETE", "path", "/up").status == 204
    assert secret.read_text() == "outside"
    assert sorted(path.name for path in volume.parent.iterdir()) == ["secret", "volume"]


def test_links_inside_are_followed_and_described_as_links(agent: Agent, volume: Path) -> None:
    ask(agent, "PUT", "file", "/d/f", b"content", force="true")
    (volume / "link").symlink_to("/d")
    shown = ask(agent, "GET", "path", "/link").json
    assert (shown["type"], shown["target"]) == ("symlink", "/d")
    assert ask(agent, "GET", "file", "/link/f").body == b"content"
    assert [entry["path"] for entry in ask(agent, "GET", "dir", "/link").json] == ["/link/f"]
    assert [entry["path"] for entry in ask(agent, "GET", "dir", "/", depth=5).json] == ["/d", "/d/f", "/link"]


def test_a_file_that_is_none(agent: Agent, volume: Path) -> None:
    os.mkfifo(volume / "pipe")
    assert ask(agent, "GET", "path", "/pipe").json["type"] == "unknown"
    assert failure(ask(agent, "GET", "file", "/pipe")) == NOT_FOUND


def test_a_full_volume_is_said_to_be_full_and_keeps_no_half_file(agent: Agent, tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
    try:
        agent.init(accessToken=TOKEN, sandboxId="isandbox", volumeMounts=[{"slot": 1, "path": str(root)}])
        assert failure(ask(agent, "PUT", "file", "/big", b"x" * 2_000_000)) == (507, "no_space")
        assert list(root.iterdir()) == []
        assert ask(agent, "PUT", "file", "/small", b"x").status == 201
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_volume_that_is_not_mounted(agent: Agent, volume: Path) -> None:
    assert failure(agent.request("GET", "/volumes/path?slot=0&path=/")) == (409, "not_mounted")
    volume.rmdir()
    assert failure(ask(agent, "GET", "path", "/")) == (409, "not_mounted")


def test_volumes_are_written_to_their_disks_on_request(agent: Agent, volume: Path) -> None:
    assert agent.request("POST", "/volumes/release").status == 204


def test_a_mount_without_a_slot_or_a_path_is_refused(agent: Agent) -> None:
    for mount in ({"slot": 0}, {"slot": "0", "path": "/a"}, {"slot": 0, "path": "a"}, {"slot": -1, "path": "/a"}, 1):
        assert agent.init(volumeMounts=[mount]).status == 400


def test_programs_of_the_sandbox_cannot_call_it(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        for method, kind in (("GET", "path"), ("PUT", "file"), ("POST", "release")):
            assert agent.request(method, f"/volumes/{kind}").status == 403
