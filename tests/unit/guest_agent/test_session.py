from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guest_agent.errors import HttpError
from guest_agent.session import Session, SessionStore, parse_init

NOW = 1_700_000_000_000_000_000


def parse(**body: Any) -> Session:
    return parse_init(json.dumps(body).encode(), received_ns=NOW).session


def test_every_field_of_an_init() -> None:
    body = {
        "accessToken": "token",
        "envVars": {"A": "b"},
        "timestamp": "2023-11-14T22:13:20.5Z",
        "defaultUser": "user",
        "defaultWorkdir": "/work",
        "sandboxId": "isbx",
        "templateId": "base",
        "hostname": "isbx",
        "machineId": "0" * 32,
        "entropy": "AAEC",
        "lifecycleID": "ignored",
    }
    request = parse_init(json.dumps(body).encode(), received_ns=NOW)
    assert request.session == Session("token", {"A": "b"}, "user", "/work", "isbx", "base", NOW + 500_000_000)
    assert (request.hostname, request.machine_id, request.entropy) == ("isbx", "0" * 32, b"\0\1\2")


def test_null_and_absent_are_the_same() -> None:
    assert parse() == parse(accessToken=None, envVars=None, timestamp=None)
    assert parse().timestamp_ns == NOW


def test_a_timestamp_may_have_nanoseconds_and_any_zone() -> None:
    assert parse(timestamp="2023-11-14T22:13:20.123456789Z").timestamp_ns == NOW + 123_456_000
    assert parse(timestamp="2023-11-15T00:13:20+02:00").timestamp_ns == NOW


@pytest.mark.parametrize(
    "body",
    [
        {"accessToken": 5},
        {"accessToken": ""},
        {"envVars": ["A"]},
        {"envVars": {"A": None}},
        {"timestamp": "2023-11-14T22:13:20"},
        {"hostname": "-bad"},
        {"hostname": "a\nb"},
        {"machineId": "0" * 31},
        {"entropy": "not base64!"},
    ],
)
def test_invalid_fields_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(HttpError) as refused:
        parse(**body)
    assert refused.value.status == 400


def test_a_session_survives_in_a_file_for_root_only(tmp_path: Path) -> None:
    path = tmp_path / "cube" / "state.json"
    store = SessionStore(path)
    assert store.current is None
    session = Session("token", {"A": "ä"}, timestamp_ns=NOW)
    store.replace(session)
    assert SessionStore(path).current == session
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["state.json"]


def test_a_damaged_file_is_no_session(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for content in ("", "{", '{"unknown": 1}', "[]"):
        path.write_text(content)
        assert SessionStore(path).current is None
