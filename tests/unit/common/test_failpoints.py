from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.common import failpoints
from appliance.domain.errors import NodeFailure


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    failpoints.arm(tmp_path / "failpoint")
    yield tmp_path / "failpoint"
    failpoints.arm(None)


def test_nothing_happens_where_nothing_is_armed(armed: Path) -> None:
    failpoints.reach("a:step")
    armed.write_text("another:step raise")
    failpoints.reach("a:step")
    failpoints.arm(None)
    failpoints.reach("another:step")


def test_a_point_fails_once(armed: Path) -> None:
    armed.write_text("a:step raise")
    with pytest.raises(NodeFailure, match="a:step"):
        failpoints.reach("a:step")
    failpoints.reach("a:step")


def test_a_held_process_goes_on_when_it_is_told_to(armed: Path) -> None:
    armed.write_text("a:step hold")
    held = threading.Thread(target=failpoints.reach, args=("a:step",))
    held.start()
    while armed.exists():
        held.join(0.01)
    held.join(0.1)
    assert held.is_alive()
    armed.touch()
    held.join(30)
    assert not held.is_alive()
    assert not armed.exists()


def test_every_point_is_named_by_a_test() -> None:
    root = Path(__file__).resolve().parents[3]
    tests = "".join(path.read_text() for path in (root / "tests" / "integration").rglob("*.py"))
    points = {
        point
        for path in (root / "appliance").rglob("*.py")
        for point in re.findall(r'\breach\("([^"]+)"\)', path.read_text())
    }
    assert len(points) > 30
    assert [point for point in sorted(points) if f'"{point}"' not in tests] == []


def test_a_process_is_killed_at_a_point_as_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "failpoint"
    file.write_text("a:step kill")
    program = (
        "from pathlib import Path; from appliance.common import failpoints;"
        f"failpoints.arm(Path({str(file)!r})); failpoints.reach('a:step'); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
    assert not file.exists()
