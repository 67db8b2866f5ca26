"""The agent as clients in Go speak to it: binary protobuf, made and read by the SDK's own generated messages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b.envd.filesystem import filesystem_pb
from e2b.envd.process import process_pb

from tests.integration.guest_agent.agent import Agent, Answer, enveloped

pytestmark = pytest.mark.root
_HEADER = struct.Struct(">BI")
_END_STREAM = 2


def call(agent: Agent, procedure: str, request: Any) -> Answer:
    return agent.request("POST", "/" + procedure, request.to_binary(), headers={"Content-Type": "application/proto"})


def stream(agent: Agent, procedure: str, *requests: Any) -> Answer:
    body = b"".join(_HEADER.pack(0, len(message)) + message for message in (item.to_binary() for item in requests))
    return agent.request("POST", "/" + procedure, body, headers={"Content-Type": "application/connect+proto"})


def envelopes(body: bytes) -> Iterator[tuple[int, bytes]]:
    while body:
        flags, length = _HEADER.unpack_from(body)
        yield flags, body[_HEADER.size : _HEADER.size + length]
        body = body[_HEADER.size + length :]


def config(*argv: str) -> Any:
    return process_pb.ProcessConfig(cmd=argv[0], args=list(argv[1:]), envs={"NAME": "välue"})


def test_a_process_is_streamed(agent: Agent) -> None:
    answer = stream(
        agent,
        "process.Process/Start",
        process_pb.StartRequest(process=config("/bin/sh", "-c", 'printf "%s" "$NAME"; exit 3'), stdin=False),
    )
    assert answer.headers["content-type"] == "application/connect+proto"
    *messages, (flags, end) = envelopes(answer.body)
    assert (flags, json.loads(end)) == (_END_STREAM, {})
    events = [json.loads(process_pb.StartResponse.from_binary(payload).to_json())["event"] for _, payload in messages]
    assert events[0]["start"]["pid"] > 0
    assert events[1:] == [
        {"data": {"stdout": "dsOkbHVl"}},
        {"end": {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}},
    ]


def test_input_is_streamed(agent: Agent, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    started = agent.start("/bin/sh", "-c", f"cat > {copy}", stdin=True)
    try:
        first = started.next()
        assert first is not None
        selector = {"process": {"pid": first["event"]["start"]["pid"]}}
        documents: list[dict[str, Any]] = [
            {"start": selector},
            {"data": {"input": {"stdin": "AP8="}}},
            {"keepalive": {}},
            {"data": {"input": {"stdin": "AQ=="}}},
        ]
        requests = [process_pb.StreamInputRequest.from_json(json.dumps(document)) for document in documents]
        assert list(envelopes(stream(agent, "process.Process/StreamInput", *requests).body)) == [(0, b""), (2, b"{}")]
        listed = process_pb.ListResponse.from_binary(call(agent, "process.Process/List", process_pb.ListRequest()).body)
        assert [item.pid for item in listed.processes] == [first["event"]["start"]["pid"]]
        closing = process_pb.CloseStdinRequest.from_json(json.dumps(selector))
        assert call(agent, "process.Process/CloseStdin", closing).status == 200
        assert [message["event"] for message in started] == [
            {"end": {"exitCode": 0, "exited": True, "status": "exit status 0"}}
        ]
    finally:
        started.close()
    assert copy.read_bytes() == b"\x00\xff\x01"


def test_the_tree_and_its_watchers(agent: Agent, tmp_path: Path) -> None:
    watch = filesystem_pb.CreateWatcherRequest(path=str(tmp_path), include_entry=True)
    created = call(agent, "filesystem.Filesystem/CreateWatcher", watch)
    watcher = filesystem_pb.CreateWatcherResponse.from_binary(created.body).watcher_id
    made = call(agent, "filesystem.Filesystem/MakeDir", filesystem_pb.MakeDirRequest(path=f"{tmp_path}/made"))
    assert made.headers["content-type"] == "application/proto"
    entry = filesystem_pb.MakeDirResponse.from_binary(made.body).entry
    assert entry is not None
    assert (entry.name, entry.type, entry.permissions) == ("made", filesystem_pb.FileType.DIRECTORY, "drwxr-xr-x")
    assert entry.modified_time is not None
    polled = call(
        agent, "filesystem.Filesystem/GetWatcherEvents", filesystem_pb.GetWatcherEventsRequest(watcher_id=watcher)
    )
    events = filesystem_pb.GetWatcherEventsResponse.from_binary(polled.body).events
    assert [(event.name, event.type) for event in events][:1] == [("made", filesystem_pb.EventType.CREATE)]
    assert events[0].entry == entry
    removed = filesystem_pb.RemoveWatcherRequest(watcher_id=watcher)
    assert call(agent, "filesystem.Filesystem/RemoveWatcher", removed).status == 200


def test_errors_are_json_all_the_same(agent: Agent) -> None:
    missing = call(agent, "filesystem.Filesystem/Stat", filesystem_pb.StatRequest(path="/no/such"))
    assert (missing.status, missing.json["code"]) == (404, "not_found")
    assert missing.headers["content-type"] == "application/json"
    malformed = agent.request(
        "POST", "/filesystem.Filesystem/Stat", b"\x0a\x05a", headers={"Content-Type": "application/proto"}
    )
    assert (malformed.status, malformed.json["code"]) == (400, "invalid_argument")
    unknown = stream(agent, "process.Process/Connect", process_pb.ConnectRequest.from_json('{"process":{"pid":1}}'))
    ((flags, end),) = envelopes(unknown.body)
    assert (flags, json.loads(end)["error"]["code"]) == (_END_STREAM, "not_found")
    wrong = agent.request(
        "POST",
        "/process.Process/Start",
        enveloped({"process": {"cmd": "true"}}),
        headers={"Content-Type": "application/connect+proto"},
    )
    ((flags, end),) = envelopes(wrong.body)
    assert (flags, json.loads(end)["error"]["code"]) == (_END_STREAM, "invalid_argument")
