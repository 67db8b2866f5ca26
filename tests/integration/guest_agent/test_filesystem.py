from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.guest_agent.agent import Agent

pytestmark = pytest.mark.root


def call(agent: Agent, method: str, user: str | None = None, **message: Any) -> Any:
    return agent.call(f"filesystem.Filesystem/{method}", message, user=user).json


def test_stat_tells_everything(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    path.chmod(0o4750)
    os.setxattr(path, "user.e2b.key", b"value")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    assert call(agent, "Stat", path=str(path)) == {
        "entry": {
            "name": "f",
            "type": "FILE_TYPE_FILE",
            "path": str(path),
            "size": "5",
            "mode": 0o750,
            "permissions": "urwxr-x---",
            "owner": "root",
            "group": "root",
            "modifiedTime": "2023-11-14T22:13:20.123456789Z",
            "metadata": {"key": "value"},
        }
    }


def test_links_show_what_they_lead_to(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"123")
    (tmp_path / "target").chmod(0o600)
    for name, leads_to in (("good", "target"), ("again", "good"), ("dangling", "nothing"), ("loop", "loop")):
        (tmp_path / name).symlink_to(leads_to)
    for name in ("good", "again"):
        entry = call(agent, "Stat", path=f"{tmp_path}/{name}")["entry"]
        assert entry["symlinkTarget"] == f"{tmp_path}/target"
        assert (entry["type"], entry["mode"]) == ("FILE_TYPE_FILE", 0o600)
        assert entry["permissions"] == "Lrwxrwxrwx"
    dangling = call(agent, "Stat", path=f"{tmp_path}/dangling")["entry"]
    assert (dangling["type"], dangling["symlinkTarget"]) == ("FILE_TYPE_UNSPECIFIED", f"{tmp_path}/dangling")
    assert call(agent, "Stat", path=f"{tmp_path}/loop")["code"] == "failed_precondition"
    assert call(agent, "Stat", path=f"{tmp_path}/none")["code"] == "not_found"


def test_listing_is_in_order_and_as_deep_as_asked(agent: Agent, tmp_path: Path) -> None:
    for name in ("d2/x", "d1/sub/deep", "d1/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b").touch()
    (tmp_path / "link").symlink_to("d1")

    def listed(root: Path, **options: Any) -> list[str]:
        entries = call(agent, "ListDir", path=str(root), **options)["entries"]
        return [entry["path"].removeprefix(f"{root}/") for entry in entries]

    assert listed(tmp_path) == listed(tmp_path, depth=1) == ["b", "d1", "d2", "link"]
    assert listed(tmp_path, depth=2) == ["b", "d1", "d1/a", "d1/sub", "d2", "d2/x", "link"]
    assert listed(tmp_path / "link", depth=3) == ["a", "sub", "sub/deep"]
    assert call(agent, "ListDir", path=str(tmp_path / "b"))["code"] == "invalid_argument"
    assert call(agent, "ListDir", path=str(tmp_path / "none"))["code"] == "not_found"


def test_new_directories_belong_to_the_user(agent: Agent, open_directory: Path) -> None:
    entry = call(agent, "MakeDir", user="www-data", path=f"{open_directory}/a/b")["entry"]
    assert (entry["owner"], entry["permissions"]) == ("www-data", "drwxr-xr-x")
    assert (open_directory / "a").stat().st_uid == pwd.getpwnam("www-data").pw_uid
    assert call(agent, "MakeDir", path=f"{open_directory}/a")["code"] == "already_exists"
    (open_directory / "file").touch()
    for path in ("file", "file/below"):
        assert call(agent, "MakeDir", path=f"{open_directory}/{path}")["code"] == "invalid_argument"


def test_moving_overwrites_files_and_makes_parents(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    moved = call(agent, "Move", source=f"{tmp_path}/a", destination=f"{tmp_path}/b")
    assert moved["entry"]["path"] == f"{tmp_path}/b"
    call(agent, "Move", source=f"{tmp_path}/b", destination=f"{tmp_path}/x/y/c")
    assert (tmp_path / "x/y/c").read_text() == "a"
    missing = call(agent, "Move", source=f"{tmp_path}/none", destination=f"{tmp_path}/z/n")
    assert missing["code"] == "not_found"
    assert not (tmp_path / "z").exists()


def test_removing_is_thorough_and_spares_what_links_lead_to(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "gone/deep").mkdir(parents=True)
    (tmp_path / "gone/link").symlink_to(tmp_path / "kept")
    assert call(agent, "Remove", path=f"{tmp_path}/gone") == {}
    assert call(agent, "Remove", path=f"{tmp_path}/gone") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept/file").exists()


def test_paths_start_at_home(agent: Agent) -> None:
    for path, expected in (("", "/root"), ("~", "/root"), ("~/x/..", "/root"), ("//tmp/./", "/tmp"), ("/..", "/")):
        assert call(agent, "Stat", path=path)["entry"]["path"] == expected


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "other"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=True, timeout=30)
    yield mount
    subprocess.run(["umount", mount], check=True, timeout=30)


def test_what_is_moved_to_another_file_system_keeps_owner_mode_and_links(
    agent: Agent, tmp_path: Path, other_file_system: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("content")
    (tree / "sub/file").chmod(0o4755)
    (tree / "link").symlink_to("sub/file")
    for path in (tree, tree / "sub", tree / "sub/file", tree / "link"):
        os.chown(path, 33, 34, follow_symlinks=False)
    (tree / "sub/file").chmod(0o4755)
    (other_file_system / "here").mkdir()
    moved = call(agent, "Move", source=str(tree), destination=f"{other_file_system}/here")
    assert moved["entry"]["type"] == "FILE_TYPE_DIRECTORY"
    assert not tree.exists()
    here = other_file_system / "here"
    assert (here / "link").readlink() == Path("sub/file")
    assert (here / "sub/file").stat().st_mode & 0o7777 == 0o4755
    for path in (here, here / "sub", here / "sub/file", here / "link"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (33, 34)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert "entry" in call(agent, "Move", source=f"{tmp_path}/a", destination=f"{other_file_system}/file")
    assert "entry" in call(agent, "Move", source=f"{tmp_path}/b", destination=f"{other_file_system}/file")
    assert (other_file_system / "file").read_text() == "b"
    (tmp_path / "c").touch()
    refused = call(agent, "Move", source=f"{tmp_path}/c", destination=f"{other_file_system}/here")
    assert refused["code"] == "invalid_argument"
    assert (tmp_path / "c").exists()


def test_a_depth_may_be_written_as_a_string(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert len(call(agent, "ListDir", path=str(tmp_path), depth="2")["entries"]) == 1
    assert call(agent, "ListDir", path=str(tmp_path), depth=-1)["code"] == "invalid_argument"
