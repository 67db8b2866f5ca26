import json

import pytest

from process_kernel.wire import BadMessage, Connection, Message, pack, unpack

KEY = b"secret"
REQUEST = Message(
    header={"msg_id": "1", "msg_type": "execute_request", "session": "s"},
    content={"code": "é"},
    identities=(b"\x00client",),
)


def test_what_is_packed_is_unpacked() -> None:
    assert unpack(pack(REQUEST, KEY), KEY) == REQUEST


def test_an_answer_goes_to_the_client_and_names_its_request() -> None:
    answer = REQUEST.answer("execute_reply", {"status": "ok"})
    frames = pack(answer, KEY)
    assert frames[:2] == [b"\x00client", b"<IDS|MSG>"]
    assert json.loads(frames[4]) == REQUEST.header
    assert answer.type == "execute_reply"
    assert answer.header["session"] == "s"
    assert answer.header["msg_id"] != "1"


def test_a_message_signed_with_another_key_is_refused() -> None:
    with pytest.raises(BadMessage):
        unpack(pack(REQUEST, b"other"), KEY)


@pytest.mark.parametrize("frames", [[], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"", b"{}", b"{}"], [b"x"]])
def test_frames_that_are_no_message_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(BadMessage):
        unpack(frames, b"")


def test_without_a_key_messages_are_not_signed() -> None:
    assert pack(REQUEST, b"")[2] == b""
    assert unpack(pack(REQUEST, b""), b"") == REQUEST


@pytest.mark.parametrize(
    ("transport", "ip", "address"), [("tcp", "127.0.0.1", "tcp://127.0.0.1:1"), ("ipc", "/k", "ipc:///k-1")]
)
def test_addresses_of_the_sockets(transport: str, ip: str, address: str) -> None:
    content = {"transport": transport, "ip": ip, "key": "k"}
    ports = {f"{channel}_port": 1 for channel in ("shell", "iopub", "stdin", "control", "hb")}
    assert Connection.from_file({**content, **ports}).address("iopub") == address
