from __future__ import annotations

import pytest

from guest_agent.files.download import content_disposition, content_type


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b.txt", "text/plain; charset=utf-8"),
        ("/a/b.json", "application/json"),
        ("/a/b.PNG", "image/png"),
        ("/a/b.tar.gz", "application/octet-stream"),
        ("/a.b/c", "application/octet-stream"),
    ],
)
def test_the_type_follows_the_name(path: str, expected: str) -> None:
    assert content_type(path) == expected


def test_names_that_would_break_the_header_are_encoded() -> None:
    assert content_disposition("/x/plain.txt") == "inline; filename=plain.txt"
    for name in ("a b", 'a"b', "a;b", "a\r\nX: y", "ä", "\udcff"):
        header = content_disposition(f"/x/{name}")
        assert header.startswith("inline; filename*=utf-8''")
        assert header.isascii()
        assert not set(header) & set('\r\n"')
