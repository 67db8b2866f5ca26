from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def searchable_path() -> Iterator[Path]:
    """A temporary directory that a process without privileges can reach, as /var/lib/cube is; pytest's are private."""
    with TemporaryDirectory(dir="/var/tmp", prefix="cube-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
