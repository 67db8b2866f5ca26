"""The SDK of an older release finds what it expects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.lab


def test_older_sdk_creates_uses_lists_and_kills(older_client: Callable[[str], str]) -> None:
    said = older_client(
        """
from importlib.metadata import version
from e2b import Sandbox

sandbox = Sandbox.create(template="base", timeout=120, metadata={"made-by": "older"})
sandbox.files.write("/home/user/note", "older")
print(version("e2b"), sandbox.commands.run("cat /home/user/note").stdout)
print(sandbox.sandbox_id in [one.sandbox_id for one in Sandbox.list().next_items()])
sandbox.set_timeout(60)
print(sandbox.kill(), sandbox.is_running())
"""
    )
    assert said.split() == ["2.31.0", "older", "True", "True", "False"]
