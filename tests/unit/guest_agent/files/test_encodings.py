from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.errors import HttpError
from guest_agent.files.encodings import decoded, response_coding


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip, deflate", "identity"),
        ("gzip, deflate, br, zstd", "identity"),
        ("*", "identity"),
        ("identity;q=0.5, gzip;q=1", "gzip"),
        ("identity, gzip;q=0.5", "identity"),
        ("gzip, identity;q=0", "gzip"),
        ("br, gzip, identity;q=0", "gzip"),
        ("gzip;q=x", "identity"),
    ],
)
def test_the_coding_of_a_download(header: str | None, coding: str) -> None:
    assert response_coding(header) == coding


@pytest.mark.parametrize("header", ["identity;q=0", "*;q=0", "br, identity;q=0"])
def test_nothing_acceptable(header: str) -> None:
    with pytest.raises(HttpError) as refused:
        response_coding(header)
    assert refused.value.status == 406


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@given(st.binary(max_size=2000), st.integers(1, 50))
async def test_a_gzip_body_in_any_pieces(content: bytes, size: int) -> None:
    body = chunks(gzip.compress(content), size)
    assert b"".join([piece async for piece in decoded(body, "gzip")]) == content


async def test_a_bomb_comes_in_pieces_of_bounded_size() -> None:
    body = chunks(gzip.compress(bytes(5_000_000)), 10_000)
    sizes = [len(piece) async for piece in decoded(body, "gzip")]
    assert sum(sizes) == 5_000_000
    assert max(sizes) <= 256 * 1024
