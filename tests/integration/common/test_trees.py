from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance.common.trees import remove_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    (path / "a").mkdir(parents=True)
    (path / "a" / "file").touch()
    (path / "b").touch()
    return path


@pytest.fixture
def held(tree: Path) -> Iterator[Path]:
    """A directory in it that cannot be removed, whoever asks."""
    mounted = tree / "a"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True, timeout=30)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True, timeout=30)


def test_a_directory_is_removed_without_a_word(tree: Path) -> None:
    with capture_logs() as logs:
        remove_tree(tree)
        remove_tree(tree)
    assert not tree.exists()
    assert logs == []


@pytest.mark.root
def test_what_stays_is_said_with_the_first_reason(tree: Path, held: Path) -> None:
    with capture_logs() as logs:
        remove_tree(tree)
    assert [path.name for path in tree.iterdir()] == [held.name]
    assert logs == [
        {
            "event": "directory_not_removed",
            "log_level": "warning",
            "path": str(tree),
            "error": f"{held.name}: Device or resource busy",
        }
    ]
