from __future__ import annotations

import pytest

from appliance.cubelet.builds.finalize import start_command
from appliance.storage.base import ImageConfig


@pytest.mark.parametrize(
    ("start_cmd", "config", "expected"),
    [
        ("serve --port 1", ImageConfig(cmd=("other",)), ("/bin/bash", "-l", "-c", "serve --port 1")),
        (None, ImageConfig(entrypoint=("/app",), cmd=("--x",)), ("/app", "--x")),
        (None, ImageConfig(cmd=("/bin/bash",)), None),
        (None, ImageConfig(cmd=("python3",)), None),
        (None, ImageConfig(), None),
        (None, ImageConfig(entrypoint=("/bin/sh", "-c", "run")), ("/bin/sh", "-c", "run")),
    ],
)
def test_what_a_template_starts(start_cmd: str | None, config: ImageConfig, expected: tuple[str, ...] | None) -> None:
    assert start_command(start_cmd, config) == expected
