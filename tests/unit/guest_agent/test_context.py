from __future__ import annotations

from pathlib import Path

import pytest

from guest_agent.context import Context
from guest_agent.errors import UnknownUser
from guest_agent.session import Session, SessionStore
from guest_agent.users import User, UserDatabase

USER = User("user", 1000, 1000, (1000,), "/home/user")


@pytest.fixture
def sessions(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "state.json")


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    return tmp_path


def test_no_name_means_the_default_user(etc: Path, sessions: SessionStore) -> None:
    context = Context(UserDatabase(etc), sessions)
    assert context.user(None).name == "user"
    sessions.replace(Session(default_user="root"))
    assert context.user(None).name == "root"
    assert context.user("user").name == "user"
    with pytest.raises(UnknownUser, match="invalid username: 'other'"):
        context.user("other")


def test_root_stands_in_for_a_default_user_the_image_lacks(tmp_path: Path, sessions: SessionStore) -> None:
    context = Context(UserDatabase(tmp_path), sessions)
    assert context.user(None).name == "root"
    assert context.user("user").name == "root"
    with pytest.raises(UnknownUser):
        context.user("other")


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("", "/home/user"),
        ("a/../b", "/home/user/b"),
        ("~", "/home/user"),
        ("~/x", "/home/user/x"),
        ("~other/x", "/home/user/~other/x"),
        ("/abs//x/.", "/abs/x"),
        ("//abs", "/abs"),
        ("/../..", "/"),
    ],
)
def test_paths(etc: Path, sessions: SessionStore, path: str, resolved: str) -> None:
    assert Context(UserDatabase(etc), sessions).path(path, USER) == resolved


def test_relative_paths_start_at_the_default_directory(etc: Path, sessions: SessionStore) -> None:
    sessions.replace(Session(default_workdir="/work"))
    context = Context(UserDatabase(etc), sessions)
    assert context.path("x", USER) == "/work/x"
    assert context.path("~/x", USER) == "/home/user/x"


def test_later_words_on_the_environment_win(etc: Path, sessions: SessionStore) -> None:
    sessions.replace(Session(env_vars={"A": "global", "B": "global", "PATH": "/opt"}, sandbox_id="isbx"))
    environment = Context(UserDatabase(etc), sessions).environment(USER, {"B": "call"})
    assert environment == {
        "PATH": "/opt",
        "HOME": "/home/user",
        "USER": "user",
        "LOGNAME": "user",
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": "isbx",
        "A": "global",
        "B": "call",
    }
