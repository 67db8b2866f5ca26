from __future__ import annotations

import gzip
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.envelope import (
    MAX_MESSAGE_BYTES,
    decode,
    encode,
    end_of_stream,
    envelope,
    read_envelopes,
    take_message,
)
from guest_agent.errors import Code, RpcError


async def pieces(data: bytes, sizes: list[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=5), st.lists(st.integers(0, 40)))
async def test_messages_arrive_whole_however_the_body_is_cut(messages: list[dict[str, Any]], cuts: list[int]) -> None:
    body = b"".join(envelope(encode(message)) for message in messages)
    assert [decode(payload) async for payload in read_envelopes(pieces(body, cuts))] == messages


async def test_a_body_that_ends_within_a_message_is_refused() -> None:
    with pytest.raises(RpcError) as refused:
        _ = [message async for message in read_envelopes(pieces(envelope(b"content")[:-1], []))]
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_message_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    with pytest.raises(RpcError) as refused:
        take_message(bytearray(struct.pack(">BI", 0, MAX_MESSAGE_BYTES + 1)))
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


def test_compressed_messages_are_unpacked_up_to_a_limit() -> None:
    packed = gzip.compress(b'{"a": "b"}')
    assert take_message(bytearray(struct.pack(">BI", 1, len(packed)) + packed)) == b'{"a": "b"}'
    bomb = gzip.compress(b" " * (MAX_MESSAGE_BYTES + 1))
    with pytest.raises(RpcError) as refused:
        take_message(bytearray(struct.pack(">BI", 1, len(bomb)) + bomb))
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("payload", [b"[]", b"1", b"{", b"\xff"])
def test_what_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(RpcError) as refused:
        decode(payload)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_the_last_envelope_is_marked_and_carries_the_error() -> None:
    assert end_of_stream(None) == b"\x02\0\0\0\x02{}"
    failed = end_of_stream(RpcError(Code.NOT_FOUND, "gone"))
    assert failed[0] == 2
    assert failed[5:] == b'{"error":{"code":"not_found","message":"gone"}}'


def test_file_names_that_are_not_unicode_do_not_break_the_answer() -> None:
    assert encode({"name": "\udcff"}) == b'{"name":"?"}'
