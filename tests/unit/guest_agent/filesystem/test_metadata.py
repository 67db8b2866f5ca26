from __future__ import annotations

import pytest

from guest_agent.errors import HttpError
from guest_agent.filesystem.metadata import metadata_from_headers


def test_headers_with_the_prefix_are_metadata() -> None:
    headers = [("x-metadata-a", "1"), ("content-type", "x"), ("x-metadata-b-c", "~ !")]
    assert metadata_from_headers(headers) == {"a": "1", "b-c": "~ !"}


@pytest.mark.parametrize(("key", "value"), [("", "v"), ("k" * 247, "v"), ("k", "ä"), ("k", "a\tb"), ("k", "v" * 4096)])
def test_what_cannot_be_stored_is_refused(key: str, value: str) -> None:
    with pytest.raises(HttpError) as refused:
        metadata_from_headers([(f"x-metadata-{key}", value)])
    assert refused.value.status == 400


def test_the_largest_that_can_be_stored_passes() -> None:
    assert metadata_from_headers([("x-metadata-" + "k" * 246, "v" * (4096 - 246))])
