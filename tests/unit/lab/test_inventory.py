import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MACHINES = Path(__file__).parents[3] / "inventories" / "lab" / "machines.py"


def inventory(count: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUBE_LAB_MACHINES": count}
    return subprocess.run(
        [sys.executable, MACHINES, "--list"], env=environment, capture_output=True, text=True, check=False, timeout=30
    )


def test_first_machine_has_the_control_plane_and_all_are_nodes() -> None:
    groups = json.loads(inventory("3").stdout)
    assert groups["cubemaster"]["hosts"] == ["cube-1"]
    assert groups["cubelet"]["hosts"] == ["cube-1", "cube-2", "cube-3"]
    assert groups["_meta"]["hostvars"]["cube-3"] == {"ansible_host": "198.18.0.13"}


@pytest.mark.parametrize("count", ["0", "10"])
def test_number_of_machines_out_of_range_is_refused(count: str) -> None:
    done = inventory(count)
    assert done.returncode != 0
    assert count in done.stderr
