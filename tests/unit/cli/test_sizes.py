from __future__ import annotations

import pytest

from appliance.cli.sizes import parse_mib


@pytest.mark.parametrize(
    ("text", "mib"),
    [("1G", 1024), ("512M", 512), ("512", 512), ("1.5g", 1536), ("2GiB", 2048), ("1T", 1_048_576), ("2048k", 2)],
)
def test_sizes_are_binary_and_default_to_mib(text: str, mib: int) -> None:
    assert parse_mib(text) == mib


@pytest.mark.parametrize("text", ["", "G", "1X", "-1G", "0", "0.1M", "1.0001G", "1 000M", "1e3"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole number"):
        parse_mib(text)
