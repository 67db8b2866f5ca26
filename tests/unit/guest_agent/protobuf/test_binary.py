from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from e2b.envd.filesystem import filesystem_pb
from e2b.envd.process import process_pb
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.errors import Code, RpcError
from guest_agent.filesystem import schema as filesystem
from guest_agent.process import schema as process
from guest_agent.protobuf.binary import decode, encode
from guest_agent.protobuf.schema import Message

START = {
    "process": {"cmd": "/bin/bash", "args": ["-l", "-c", ""], "envs": {"A": "1", "": ""}, "cwd": "/ü"},
    "pty": {"size": {"cols": 200, "rows": 4294967295}},
    "tag": "t",
    "stdin": False,
}
ENTRY = {
    "name": "file",
    "type": "FILE_TYPE_SYMLINK",
    "path": "/file",
    "size": "9223372036854775807",
    "mode": 0o644,
    "permissions": "Lrwxrwxrwx",
    "owner": "user",
    "group": "user",
    "modifiedTime": "2026-08-21T10:20:30.000000123Z",
    "symlinkTarget": "/other",
    "isSymlink": True,
    "metadata": {"key": "value"},
}
MESSAGES: list[tuple[Any, Message, dict[str, Any]]] = [
    (process_pb.StartRequest, process.START.request, START),
    (process_pb.SendInputRequest, process.SEND_INPUT.request, {"process": {"tag": ""}, "input": {"pty": "AP+A"}}),
    (process_pb.StreamInputRequest, process.STREAM_INPUT.request, {"start": {"process": {"pid": 7}}}),
    (process_pb.StreamInputRequest, process.STREAM_INPUT.request, {"data": {"input": {"stdin": ""}}}),
    (process_pb.StreamInputRequest, process.STREAM_INPUT.request, {"keepalive": {}}),
    (process_pb.SendSignalRequest, process.SEND_SIGNAL.request, {"signal": "SIGNAL_SIGKILL"}),
    (process_pb.StartResponse, process.START.response, {"event": {"data": {"stdout": "aGk="}}}),
    (
        process_pb.StartResponse,
        process.START.response,
        {"event": {"end": {"exitCode": -1, "status": "signal: killed"}}},
    ),
    (process_pb.ListResponse, process.LIST.response, {"processes": [{"pid": 1, "config": {"cmd": "a"}}, {"pid": 2}]}),
    (filesystem_pb.StatResponse, filesystem.STAT.response, {"entry": ENTRY}),
    (
        filesystem_pb.StatResponse,
        filesystem.STAT.response,
        {"entry": {"modifiedTime": "1969-12-31T23:59:59.500000000Z"}},
    ),
    (filesystem_pb.ListDirResponse, filesystem.LIST_DIR.response, {"entries": [{"name": "a"}, {"name": "b"}]}),
    (
        filesystem_pb.WatchDirResponse,
        filesystem.WATCH_DIR.response,
        {"filesystem": {"name": "f", "type": "EVENT_TYPE_CHMOD"}},
    ),
]


@pytest.mark.parametrize(("reference", "schema", "message"), MESSAGES)
def test_the_reference_library_reads_what_is_written(reference: Any, schema: Message, message: dict[str, Any]) -> None:
    assert reference.from_binary(encode(schema, message)) == reference.from_json(json.dumps(message))


@pytest.mark.parametrize(("reference", "schema", "message"), MESSAGES)
def test_what_the_reference_library_writes_is_read(reference: Any, schema: Message, message: dict[str, Any]) -> None:
    expected = reference.from_json(json.dumps(message))
    assert reference.from_json(json.dumps(decode(schema, expected.to_binary()))) == expected


def test_absence_is_not_falsehood() -> None:
    assert decode(process.START.request, b"") == {}
    assert decode(process.START.request, b"\x20\x00") == {"stdin": False}


def test_unknown_fields_are_skipped_and_parts_of_a_message_are_joined() -> None:
    unknown = b"\x78\x01" + b"\x7a\x02hi" + b"\x7d1234" + b"\x7912345678"
    parts = b"\x0a\x03\x0a\x01a" + unknown + b"\x0a\x03\x12\x01b"
    assert decode(process.START.request, parts) == {"process": {"cmd": "a", "args": ["b"]}}


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x0a\x05a", id="ends within a field"),
        pytest.param(b"\x0a", id="ends before a length"),
        pytest.param(b"\x20" + b"\x80" * 11, id="endless number"),
        pytest.param(b"\x08\x01", id="number for a message"),
        pytest.param(b"\x1a\x01\xff", id="not UTF-8"),
        pytest.param(b"\x0b\x0c", id="group"),
    ],
)
def test_malformed_messages_are_refused(payload: bytes) -> None:
    with pytest.raises(RpcError) as refused:
        decode(process.START.request, payload)
    assert refused.value.code is Code.INVALID_ARGUMENT


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(payload: bytes) -> None:
    with suppress(RpcError):
        assert isinstance(decode(filesystem.STAT.response, payload), dict)


def test_a_time_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(RpcError):
        decode(filesystem.STAT.response, b"\x0a\x0c\x4a\x0a\x08" + b"\xff" * 8 + b"\x7f")
